"""`stillroom train --dry-run`: what a recipe comes to, before hours are spent: sizes, memory, time."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from stillroom.config_io import to_dict
from stillroom.data import open_data
from stillroom.model.device import resolve_device
from stillroom.model.locking import set_training_mode
from stillroom.model.parts import encode_text, text_head, text_trunk, tower_parameters, trim_padding
from stillroom.progress import clock
from stillroom.train.config import TrainConfig
from stillroom.train.precision import autocast
from stillroom.train.run import resolve_inputs
from stillroom.train.setup import build_model
from stillroom.train.slots import KeepSet, count_slots, keep_all

# Pairs that stand for a batch: enough for a rate, few enough for any machine.
TRIED = 8
CAPTION = "a photo of a small brown dog that runs along the beach in the evening"


def estimate_lines(
    data: str | None, config: TrainConfig, *, keep: Path | None = None, concepts: Path | None = None
) -> list[str]:
    """Return the resolved recipe and what it comes to, on this machine's device and one process.

    Pairs are counted without their pictures. Memory counts weights, gradients, the optimiser's moments, the moving
    average and what the backward pass keeps; time is that of forward and backward passes of a few pairs.
    """
    inputs = resolve_inputs(data, config, keep, concepts)
    shards = open_data(inputs.data, config.data)
    kept = KeepSet.open(inputs.keep, [shard.name for shard in shards]) if inputs.keep else keep_all
    pairs = count_slots(shards, keep=kept).total
    described, model, tokenizer = build_model(config.model)
    device = torch.device(resolve_device(config.device))
    model.to(device, memory_format=torch.channels_last)
    set_training_mode(model)
    total, learning = _parameters(model)
    seconds, activations = _try(model, tokenizer, config, device)
    held = config.micro_batch or config.batch_size
    copies = 3 + (config.ema.decay > 0) if config.optimizer.name == "adamw" else 2 + (config.ema.decay > 0)
    state = 4 * (total + copies * learning)
    steps = config.steps(pairs)
    # Gradient caching embeds every batch once more, without a graph: about a third of a forward and backward pass.
    work = seconds * (4 / 3 if config.micro_batch and config.micro_batch < config.batch_size else 1)
    towers = ", ".join(f"{tower} {count / 1e6:,.1f} M" for tower, count in _by_tower(model).items())
    epochs = steps * config.batch_size / max(pairs, 1)
    gigabytes = [count / 2**30 for count in (state + held * activations, state, held * activations)]
    return [
        json.dumps({"recipe": to_dict(config), "model_cfg": described["model_cfg"]}, indent=2, default=str),
        f"pairs: {pairs:,}; {steps:,} steps of {config.batch_size:,}, {epochs:.2f} epochs",
        f"parameters: {total / 1e6:,.1f} M ({towers}), of which {learning / 1e6:,.1f} M learn",
        f"memory: {gigabytes[0]:,.2f} GB a rank: {gigabytes[1]:,.2f} for weights, gradients and moments, "
        f"{gigabytes[2]:,.2f} for {held:,} pairs held at once, {activations / 2**20:,.2f} MB each",
        f"time: {clock(work * steps * config.batch_size)} on this {device.type} ({1 / work:,.0f} pairs a second), "
        "data ready in time",
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


def _try(model: Any, tokenizer: Any, config: TrainConfig, device: torch.device) -> tuple[float, float]:
    """Return seconds for forward and backward, and bytes held in between, of one pair."""
    size = model.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    pictures = torch.randn(TRIED, 3, height, width, device=device).contiguous(memory_format=torch.channels_last)
    tokens = trim_padding(model, tokenizer([CAPTION] * TRIED)).to(device)
    with torch.no_grad():
        stored = text_trunk(model, tokens) if config.model.stores_text else None
    seconds, held = float("inf"), 0
    for _ in range(3):
        begin = time.perf_counter()
        with _held_storages() as storages, autocast(device, config.precision):
            image = model.encode_image(pictures)
            text = text_head(model)(stored) if stored is not None else encode_text(model, tokens)
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        held = sum(count for place, count in storages.items() if place not in weights)
        loss = (image.float() * text.float()).sum()
        if loss.requires_grad:
            loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = min(seconds, time.perf_counter() - begin)
        model.zero_grad(set_to_none=True)
    return seconds / TRIED, held / TRIED


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
