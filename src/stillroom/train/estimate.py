"""`stillroom train --dry-run`: what a recipe comes to, before hours are spent: sizes, memory, time."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stillroom.config_io import to_dict
from stillroom.data import open_data
from stillroom.model.device import memory_told, resolve_device
from stillroom.model.locking import set_training_mode
from stillroom.model.parts import (
    encode_text,
    image_head,
    image_trunk,
    text_head,
    text_trunk,
    tower_parameters,
    trim_padding,
)
from stillroom.parallel import available_cores
from stillroom.progress import clock
from stillroom.train.assemble import _check_slots
from stillroom.train.config import TrainConfig
from stillroom.train.precision import autocast
from stillroom.train.run import resolve_inputs
from stillroom.train.setup import build_model, stores_images
from stillroom.train.slots import KeepSet, count_slots, counting_workers, keep_all

# At most so many pairs stand for a batch: enough for a rate, which a GPU does not show with a few.
TRIED = {"cpu": 8, "cuda": 64}
CAPTION = "a photo of a small brown dog that runs along the beach in the evening"


def estimate_lines(
    data: str | None, config: TrainConfig, *, keep: Path | None = None, concepts: Path | None = None
) -> list[str]:
    """Return the resolved recipe and what it comes to, on this machine's device and one process.

    Pairs are counted without their pictures. Memory counts weights, gradients, the optimiser's moments, the moving
    average and what the backward pass keeps; time is that of the towers' forward and backward passes, the average's
    too where it teaches, by a few pairs.

    Raises:
        ConfigError: a recipe that cannot be carried out.
        DataError: fewer pairs than a batch takes.
        StillroomError: too little memory for a few pairs.
    """
    inputs = resolve_inputs(data, config, keep, concepts)
    shards = open_data(inputs.data, config.data)
    kept = KeepSet.open(inputs.keep, [shard.name for shard in shards]) if inputs.keep else keep_all
    workers = counting_workers(config.workers or available_cores(), len(shards))
    slots = count_slots(shards, keep=kept, workers=workers)
    _check_slots(slots, config)
    pairs = slots.total
    described, model, tokenizer = build_model(config.model)
    device = torch.device(resolve_device(config.device))
    model.to(device, memory_format=torch.channels_last)
    total, learning = _parameters(model)
    once = stores_images(model, config.model, config.augment)
    set_training_mode(model)
    held = min(config.micro_batch or config.batch_size, config.batch_size)
    with memory_told("lower micro_batch"):
        trial = try_pairs(model, tokenizer, config, device, most=held, stored_pictures=once)
    copies = 3 + (config.ema.decay > 0) if config.optimizer.name == "adamw" else 2 + (config.ema.decay > 0)
    state = 4 * (total + copies * learning) + trial.fixed
    steps = config.steps(pairs)
    # Gradient caching embeds every batch once more, without a graph, as does a teacher: each about a third of a forward
    # and backward pass.
    more = (held < config.batch_size) + (config.loss.soft_labels.weight > 0)
    work = trial.seconds * (1 + more / 3)
    towers = ", ".join(f"{tower} {count / 1e6:,.1f} M" for tower, count in _by_tower(model).items())
    epochs = steps * config.batch_size / max(pairs, 1)
    kept_for_backward = held * trial.held
    gigabytes = [count / 2**30 for count in (state + kept_for_backward, state, kept_for_backward, 4 * learning)]
    return [
        json.dumps({"recipe": to_dict(config), "model_cfg": described["model_cfg"]}, indent=2, default=str),
        f"pairs: {pairs:,}; {steps:,} steps of {config.batch_size:,}, {epochs:.2f} epochs",
        f"parameters: {total / 1e6:,.1f} M ({towers}), of which {learning / 1e6:,.1f} M learn",
        f"memory: {gigabytes[0]:,.2f} GB a rank: {gigabytes[1]:,.2f} for weights, gradients and moments, "
        f"{gigabytes[2]:,.2f} for {held:,} pairs held at once, {trial.held / 2**20:,.2f} MB each; "
        f"with several ranks {gigabytes[3]:,.2f} more for their exchange",
        f"time: {clock(work * steps * config.batch_size)} on one {device.type} ({1 / work:,.0f} pairs a second) for "
        "forward and backward passes; losses, optimiser, exchange between ranks and waiting for data come on top",
        *([f"before: {clock(trial.tower * pairs)} for the locked image tower, once for each picture"] if once else []),
    ]


def _parameters(model: Any) -> tuple[int, int]:
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns)


def _by_tower(model: Any) -> dict[str, int]:
    counts = {"image": 0, "text": 0}
    parameters = dict(model.named_parameters())
    for name, tower in tower_parameters(model).items():
        if tower in counts:
            counts[tower] += parameters[name].numel()
    return counts


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a few pairs took.

    Attributes:
        seconds: of a forward and backward pass, for one pair.
        held: bytes that one pair more keeps in between.
        fixed: bytes that are kept in between whatever the number of pairs, such as weights cast to bf16.
        tower: seconds of a stored image tower's forward pass, for one pair.
    """

    seconds: float
    held: float
    fixed: float
    tower: float


def try_pairs(
    model: Any, tokenizer: Any, config: TrainConfig, device: torch.device, *, most: int, stored_pictures: bool
) -> Trial:
    """Time and measure the towers on random pictures, at most `most` at once.

    Where features of pictures are stored, the image tower is not part of `seconds` and `held`.
    """
    # Batch norm refuses one.
    pairs = max(4, min(most, TRIED.get(device.type, 8)))
    _, few, _ = _measure(model, tokenizer, config, device, pairs // 2, stored_pictures=stored_pictures)
    seconds, all_held, tower = _measure(model, tokenizer, config, device, pairs, stored_pictures=stored_pictures)
    held = (all_held - few) / (pairs - pairs // 2)
    fixed = max(0.0, all_held - pairs * held)
    return Trial(seconds=seconds / pairs, held=held, fixed=fixed, tower=tower / pairs)


def _measure(
    model: Any, tokenizer: Any, config: TrainConfig, device: torch.device, pairs: int, *, stored_pictures: bool
) -> tuple[float, int, float]:
    """Return for a batch: seconds of forward and backward, bytes held in between, seconds of a stored image tower."""
    size = model.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    pictures = torch.randn(pairs, 3, height, width, device=device).contiguous(memory_format=torch.channels_last)
    tokens = trim_padding(model, tokenizer([CAPTION] * pairs)).to(device)
    with torch.no_grad():
        stored = text_trunk(model, tokens) if config.model.stores_text else None
    seconds, held, tower = float("inf"), 0, float("inf")
    for _ in range(3):
        begin = time.perf_counter()
        if stored_pictures:
            with torch.no_grad(), autocast(device, config.precision):
                features = image_trunk(model, pictures)
            _wait(device)
            tower = min(tower, time.perf_counter() - begin)
            begin = time.perf_counter()
        with _held_storages() as storages, autocast(device, config.precision):
            image = image_head(model)(features) if stored_pictures else model.encode_image(pictures)
            text = text_head(model)(stored) if stored is not None else encode_text(model, tokens)
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        held = sum(count for place, count in storages.items() if place not in weights)
        loss = (image.float() * text.float()).sum()
        if loss.requires_grad:
            loss.backward()
        _wait(device)
        seconds = min(seconds, time.perf_counter() - begin)
        model.zero_grad(set_to_none=True)
    return seconds, held, tower


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _held_storages() -> Iterator[dict[int, int]]:
    """Collect the storages that a graph keeps for its backward pass: address -> bytes, each once."""
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield storages
