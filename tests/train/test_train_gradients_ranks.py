"""Gradients over two ranks against those of one process: parts, empty shares, frozen towers and scalers, by DDP."""

import json
import multiprocessing
import os
import socket
import warnings
from dataclasses import replace
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from gradients_miniature import CPU, LOSSES, PAIRS, batch, close, filled, gradients
from train_miniature import config, equal, weights, write_tar

from stillroom.train import loop
from stillroom.train.assemble import distributed
from stillroom.train.ranks import Ranks
from stillroom.train.run import run

STEPS = 3
# How the 11 pairs are cut between two ranks, and how they are worked on.
SHARES = {
    "parts on one rank only": (6, 5, {}),
    "parts on one rank only, frozen text, scaled": (5, 5, {"frozen_text": True, "scaled": True}),
    "more parts on one rank": (9, 4, {"scaled": True}),
    "a rank without pairs": (11, None, {"scaled": True}),
    "the first rank without pairs": (0, 4, {}),
}
CASES = {f"{name}: {share}": (LOSSES[name], *SHARES[share]) for name in LOSSES for share in SHARES}
CASES["float16"] = (LOSSES["HN-NCE, concepts"], 6, 5, {"precision": "fp16", "scaled": True})
SGD = {"name": "sgd", "lr": 0.05, "warmup_samples": 16}
HALF = {"precision": "fp16", "micro_batch": 3, "samples": 48, "checkpoint_samples": 16, "workers": 1}
# One lane a rank, so that the share of a rank is filled from one shard after the other.
BROKEN = {"optimizer": SGD, "stream": {"lanes": 2, "shuffle": 16}, "samples": 96, "workers": 1}


def _rank(rank, ports, folder):
    torch.set_num_threads(1)
    place = f"tcp://127.0.0.1:{ports[0]}"
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=2, timeout=timedelta(seconds=30))
    ranks = Ranks(rank=rank, world=2, node_size=1, device=CPU, group=dist.group.WORLD)
    found = {}
    for name, (loss, cut, micro_batch, settings) in CASES.items():
        made = gradients(loss, micro_batch, **settings)
        made = replace(made, ranks=ranks, wrapped=distributed(made.student, ranks))
        own = batch(0, cut) if rank == 0 else batch(cut, PAIRS)
        found[name] = []
        for _ in range(STEPS):
            made.student.zero_grad(set_to_none=True)
            terms = {kind: float(ranks.sum(term) / 2) for kind, term in made.backward(own).items()}
            found[name].append((terms, filled(made)))
    found["batch norm"] = _batch_norm(ranks)
    made = gradients(LOSSES["HN-NCE, concepts"], 4)
    found["nothing"] = replace(made, ranks=ranks, wrapped=distributed(made.student, ranks)).backward(batch(0, 0))
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()
    _runs(rank, ports[1:], folder)


def _batch_norm(ranks):
    made = gradients(LOSSES["HN-NCE, concepts"], 4, middle=torch.nn.BatchNorm1d(8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = replace(made, ranks=ranks, wrapped=distributed(made.student, ranks))
    own = batch() if ranks.first else batch(0, 0)
    made.backward(own)
    return made.student.model.visual[1].running_mean.clone(), filled(made)


def _runs(rank, ports, folder):
    """Train on broken shards; train in float16, whole, and ended and resumed."""
    ports = iter(ports)

    def ranked(*arguments, **options):
        values = {"WORLD_SIZE": "2", "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(next(ports))}
        os.environ |= values
        run(*arguments, **options)

    ranked(str(folder / "shards"), config(**BROKEN), folder / "two")
    ranked(str(folder / "shards" / "00000.tar"), config(**HALF), folder / "whole")
    step = loop.Trainer.step

    def dying(self, number, *given):
        if number == 3:
            raise KeyboardInterrupt
        return step(self, number, *given)

    loop.Trainer.step = dying
    try:
        ranked(str(folder / "shards" / "00000.tar"), config(**HALF), folder / "resumed")
    except KeyboardInterrupt:
        loop.Trainer.step = step
    ranked(str(folder / "shards" / "00000.tar"), config(**HALF), folder / "resumed", resume=True)


def free_ports(count):
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Both ranks' results and the folder with their runs."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "shards").mkdir()
    write_tar(folder / "shards" / "00000.tar")
    write_tar(folder / "shards" / "00001.tar", broken=range(48))
    context = multiprocessing.get_context("spawn")
    ports = free_ports(5)
    processes = [context.Process(target=_rank, args=(rank, ports, folder)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    ended = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert ended == [0, 0]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)], folder


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_give_one_processs_loss_and_gradient_step_after_step(ranks, name):
    loss, _, _, settings = CASES[name]
    alone = gradients(loss, None, frozen_text=settings.get("frozen_text", False))
    terms = alone.backward(batch())
    tolerance = 3e-2 if "precision" in settings else 1e-4
    for found in (both[name] for both in ranks[0]):
        assert len(found) == STEPS
        for values, grads in found:
            assert values == pytest.approx({kind: float(term) for kind, term in terms.items()}, rel=tolerance)
            assert close(filled(alone), grads, tolerance)


def test_filler_moves_no_batch_statistics_and_no_gradient(ranks):
    alone = gradients(LOSSES["HN-NCE, concepts"], 4, middle=torch.nn.BatchNorm1d(8))
    fresh = alone.student.model.visual[1].running_mean.clone()
    alone.backward(batch())
    (first, grads), (second, _) = (found["batch norm"] for found in ranks[0])
    assert torch.allclose(first, alone.student.model.visual[1].running_mean)
    assert torch.equal(second, fresh)
    assert close(filled(alone), grads)


def test_no_pair_on_any_rank_is_no_step(ranks):
    assert [found["nothing"] for found in ranks[0]] == [{}, {}]


def test_a_rank_whose_pictures_are_all_broken_ends_where_one_process_does(ranks, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run(str(ranks[1] / "shards"), config(**BROKEN), tmp_path / "alone")
    torch.set_num_threads(threads)
    two = ranks[1] / "two"
    expected, found = weights(tmp_path / "alone"), weights(two)
    assert all(torch.allclose(expected[name], found[name], rtol=1e-4, atol=1e-6) for name in expected)
    summary = json.loads((two / "summary.json").read_text())
    assert summary == json.loads((tmp_path / "alone" / "summary.json").read_text())
    assert summary["faults"] == {"caption_empty": 2, "image_unreadable": 48}


def test_a_run_in_float16_over_ranks_resumes_to_the_same_weights(ranks):
    whole, resumed = ranks[1] / "whole", ranks[1] / "resumed"
    assert equal(weights(whole), weights(resumed))
    states = [torch.load(next((out / "checkpoints").glob("*.pt")), weights_only=True) for out in (whole, resumed)]
    assert states[0]["scaler"] == states[1]["scaler"]
    assert states[0]["scaler"]["scale"] > 0
    assert (whole / "metrics.jsonl").read_text() == (resumed / "metrics.jsonl").read_text()
