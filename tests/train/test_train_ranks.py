"""Training over several processes: equal to one, resumed with another number of them, and what happens to lost ones."""

import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest
import torch
from train_miniature import MODEL, config, weights, write_tar

from stillroom.errors import ConfigError, DataError, StillroomError
from stillroom.train import loop
from stillroom.train import ranks as ranks_module
from stillroom.train.ranks import _is_lost_rank, open_ranks
from stillroom.train.run import run

# SGD: Adam divides by the size of a gradient, and makes large steps of what is rounding in a small one.
SETTINGS = {
    "optimizer": {"name": "sgd", "lr": 0.05, "warmup_samples": 16},
    "loss": {"concept_weight": 0.0, "contrastive_weight": 0.5, "soft_labels": {"weight": 0.5, "teacher_scale": 10.0}},
    "ema": {"decay": 0.9},
    "micro_batch": 3,
    "samples": 48,
    "checkpoint_samples": 16,
    "keep_checkpoints": 9,
    "workers": 1,
}
TOML = "\n".join(
    [
        'optimizer = {name = "sgd", lr = 0.05, warmup_samples = 16}',
        "ema = {decay = 0.9}",
        "loss = {concept_weight = 0.0, contrastive_weight = 0.5, soft_labels = {weight = 0.5, teacher_scale = 10.0}}",
        "micro_batch = 3\nsamples = 48\nbatch_size = 8\ncheckpoint_samples = 16\nkeep_checkpoints = 9\nworkers = 1",
        'device = "cpu"',
    ]
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process: the data and its finished run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("ranks")
    data = str(write_tar(folder / "00000.tar"))
    run(data, config(**SETTINGS), folder / "alone")
    torch.set_num_threads(threads)
    return data, folder / "alone"


def torchrun(world, data, out, *options):
    recipe = out.parent / "recipe.toml"
    values = json.dumps(MODEL["model_cfg"]).replace(": ", " = ")
    preprocess = json.dumps(MODEL["preprocess_cfg"]).replace(": ", " = ")
    recipe.write_text(f"{TOML}\nmodel = {{open_clip = {{model_cfg = {values}, preprocess_cfg = {preprocess}}}}}\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}"]
    command += ["-m", "stillroom", "train", str(recipe), data, "--out", str(out), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


def close(first, second):
    return all(torch.allclose(first[key], second[key], rtol=1e-4, atol=1e-6) for key in first)


def test_three_ranks_with_unequal_shares_end_where_one_process_does(alone, tmp_path):
    data, expected = alone
    done = torchrun(3, data, tmp_path / "three")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == f"model: {tmp_path / 'three'}"
    assert close(weights(expected), weights(tmp_path / "three"))
    rows, ours = (
        [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        for out in (expected, tmp_path / "three")
    )
    assert [row.keys() for row in rows] == [row.keys() for row in ours]
    assert ours[-1]["loss"] == pytest.approx(rows[-1]["loss"], rel=1e-4)
    assert (expected / "faults.json").read_text() == (tmp_path / "three" / "faults.json").read_text()


def test_a_run_of_one_process_goes_on_with_two(alone, tmp_path, monkeypatch):
    data, expected = alone
    step = loop.Trainer.step

    def dying(self, number, *batch):
        if number == 3:
            raise KeyboardInterrupt
        return step(self, number, *batch)

    monkeypatch.setattr(loop.Trainer, "step", dying)
    with pytest.raises(KeyboardInterrupt):
        run(data, config(**SETTINGS), tmp_path / "out")
    done = torchrun(2, data, tmp_path / "out", "--resume")
    assert done.returncode == 0, done.stderr[-2000:]
    assert close(weights(expected), weights(tmp_path / "out"))


def _rank(rank, port, data, out, results):
    torch.set_num_threads(1)
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if rank == 1:
        step = loop.Trainer.step

        def dying(self, number, *batch):
            if number == 2:
                os._exit(9)
            return step(self, number, *batch)

        loop.Trainer.step = dying
    try:
        run(data, config(**SETTINGS), out)
    except StillroomError as error:
        results.put(str(error))


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_rank_that_dies_ends_the_others_with_one_line(alone, tmp_path):
    port = free_port()
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    arguments = (port, alone[0], tmp_path / "out", results)
    ranks = [context.Process(target=_rank, args=(rank, *arguments)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    message = results.get(timeout=120)
    for process in ranks:
        process.join(timeout=60)
    assert ranks[1].exitcode == 9
    assert message.startswith("rank 0: another rank ended or cannot be reached: ")
    assert "\n" not in message


def _resumed(rank, port, data, outs, results):
    torch.set_num_threads(1)
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    loop.Trainer.step = None
    try:
        run(data, config(**SETTINGS), outs[rank], resume=True)
    except StillroomError as error:
        results.put(str(error))


def test_a_rank_that_does_not_see_the_checkpoint_ends_all_with_one_line(alone, tmp_path):
    data, finished = alone
    outs = [tmp_path / "here", tmp_path / "there"]
    shutil.copytree(finished, outs[0])
    (outs[0] / "manifest.json").unlink()
    for step in (4, 6):
        (outs[0] / "checkpoints" / f"step-{step:09d}.pt").unlink()
    outs[1].mkdir()
    context = multiprocessing.get_context("spawn")
    results, port = context.Queue(), free_port()
    ranks = [context.Process(target=_resumed, args=(rank, port, data, outs, results)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    messages = [results.get(timeout=120) for _ in ranks]
    for process in ranks:
        process.join(timeout=60)
    assert messages[0] == messages[1]
    missing = outs[1] / "checkpoints" / "step-000000002.pt"
    assert messages[0].startswith(
        f"cannot read {missing} (No such file or directory), which the first rank goes on from"
    )
    assert messages[0].endswith("--out must be one folder that all nodes see")


def _as_with_nccl(rank, port, errors, log):
    """Fail in a group that, like NCCL's, is not left before all have done what they were doing."""
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    sys.stderr = log.open("w")
    join = torch.distributed.init_process_group
    patches = {
        (ranks_module, "resolve_device"): lambda device: "cuda",
        (torch.cuda, "device_count"): lambda: 2,
        (torch.cuda, "set_device"): lambda place: None,
        (torch.distributed, "init_process_group"): lambda backend, **given: join("gloo", **given),
        (torch.distributed, "destroy_process_group"): lambda: time.sleep(1000),
    }
    for (module, name), value in patches.items():
        setattr(module, name, value)
    with open_ranks("auto"):
        if errors[rank] is not None:
            raise errors[rank]
        torch.distributed.barrier()


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DataError("a picture\nis gone"), 2, "stillroom: a picture is gone"),
        (PermissionError(13, "Permission denied", "/x"), 2, "stillroom: [Errno 13] Permission denied: '/x'"),
        (
            KeyboardInterrupt(),
            130,
            "stillroom: stopped; with --resume the same command goes on from the last checkpoint",
        ),
        (KeyError("a bug"), 1, "KeyError: 'a bug'"),
    ],
)
def test_with_nccl_a_rank_that_fails_ends_at_once_and_does_not_wait_for_the_others(tmp_path, error, code, line):
    context, port = multiprocessing.get_context("fork"), free_port()
    logs = [tmp_path / "0.txt", tmp_path / "1.txt"]
    ranks = [context.Process(target=_as_with_nccl, args=(rank, port, (None, error), logs[rank])) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=30)
    codes = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
    assert codes == [2, code]
    shown = [log.read_text().splitlines() for log in logs]
    assert shown[1][-1] == line
    assert shown[0][-1].startswith("stillroom: rank 0: another rank ended or cannot be reached: ")
    assert code == 1 or len(shown[1]) == 1


def test_a_gpu_by_its_number_is_refused_for_several_ranks(monkeypatch):
    monkeypatch.setattr(ranks_module, "resolve_device", lambda device: device)
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(ConfigError, match="device is 'cuda:0', but there are 2 ranks on this machine"),
        open_ranks("cuda:0"),
    ):
        pass


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (torch.distributed.DistBackendError("NCCL communicator was aborted on rank 1."), True),
        (torch.distributed.DistNetworkError("failed to recv, got 0 bytes"), True),
        (RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"), True),
        (RuntimeError("[../gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 7200000ms for recv"), True),
        (
            RuntimeError("Expected to have finished reduction. Parameters which did not receive grad for rank 0: 2"),
            False,
        ),
        (torch.OutOfMemoryError("CUDA out of memory. 2 GiB is free; process group NCCL"), False),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
    ],
)
def test_only_errors_of_the_exchange_mean_a_lost_rank(error, lost):
    assert _is_lost_rank(error) == lost


def test_a_port_in_use_is_one_line(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        values = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        with (
            pytest.raises(ConfigError, match=f"rank 0 of 2 did not find the others at 127.0.0.1:{port}"),
            open_ranks("cpu"),
        ):
            pass
