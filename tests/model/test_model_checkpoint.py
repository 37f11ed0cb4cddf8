"""Checkpoints on a disk without room."""

import subprocess
import sys

import pytest
import torch

from stillroom.errors import WriteError
from stillroom.model.checkpoint import load_checkpoint, save_checkpoint

FULL = """
import resource, signal, sys
from pathlib import Path
import torch
from stillroom.errors import WriteError
from stillroom.model.checkpoint import save_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    save_checkpoint(Path(sys.argv[1]), {"a": torch.zeros(2_000_000), "b": torch.zeros(10)})
except WriteError as error:
    print(error)
"""


def test_a_full_disk_is_told_in_a_line_and_leaves_the_last_checkpoint(tmp_path):
    path = tmp_path / "step.pt"
    save_checkpoint(path, {"a": torch.ones(3)})
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == f"cannot write {path}: File too large; make room there and run the same command again\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["step.pt"]
    assert torch.equal(load_checkpoint(path)["a"], torch.ones(3))


def test_another_error_of_torch_s_is_not_taken_for_a_full_disk(tmp_path, monkeypatch):
    def refuse(state, file):
        raise RuntimeError("cannot be pickled")

    monkeypatch.setattr(torch, "save", refuse)
    with pytest.raises(RuntimeError, match="cannot be pickled") as caught:
        save_checkpoint(tmp_path / "a.pt", {})
    assert not isinstance(caught.value, WriteError)
    assert not list(tmp_path.iterdir())
