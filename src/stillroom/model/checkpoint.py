"""Checkpoints with open_clip's keys, and model folders that `open_clip.create_model('local-dir:...')` reads.

A model folder holds `open_clip_config.json`, `open_clip_model.safetensors` and, for Hugging Face text towers, the
tokenizer and `config.json`. Nothing is ever unpickled: checkpoints load with `weights_only=True`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillroom.artifacts import whole_file, write_bytes, write_json
from stillroom.errors import ArtifactError
from stillroom.model.towers import CONFIG_FILE, one_line

WEIGHTS_FILE = "open_clip_model.safetensors"


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a training checkpoint atomically; `state` holds tensors and plain values only."""
    import torch

    with whole_file(path) as file:
        try:
            torch.save(dict(state), file)
        except RuntimeError as error:
            # What torch makes of a write that fails: the system's own error is the first of the chain.
            failed = _first_os_error(error)
            if failed is None:
                raise
            raise failed from None


def _first_os_error(error: BaseException | None) -> OSError | None:
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without unpickling code; one that is damaged or not a checkpoint is an `ArtifactError`."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ArtifactError(f"no checkpoint {path}") from None
    except Exception as error:  # noqa: BLE001 - torch raises many kinds on damaged files
        raise ArtifactError(f"{path} is not a checkpoint that can be loaded safely: {one_line(error)}") from None
    if not isinstance(state, dict):
        raise ArtifactError(f"{path} is not a checkpoint: it holds a {type(state).__name__}")
    return state


def save_model_config(folder: Path, config: Mapping[str, Any], model: Any, tokenizer: Any) -> None:
    """Write what a model folder holds beside the weights: config and, for Hugging Face text towers, tokenizer."""
    text_config: Any = getattr(getattr(model, "text", None), "config", None)
    if hasattr(text_config, "to_json_string"):
        write_bytes(folder / "config.json", text_config.to_json_string().encode())
        tokenizer.tokenizer.save_pretrained(folder)
    write_json(folder / CONFIG_FILE, config)


def save_model_folder(folder: Path, config: Mapping[str, Any], model: Any, tokenizer: Any) -> None:
    """Write config, weights and tokenizer so that open_clip loads the folder by `local-dir:`."""
    from safetensors.torch import save

    save_model_config(folder, config, model, tokenizer)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_bytes(folder / WEIGHTS_FILE, save(tensors))
