"""A run put together: data counted, model built, sources and losses chosen, everything on its device."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stillroom.concepts.join import PseudoLabels, load_pseudo_labels, missing_line
from stillroom.data import Shard, open_data
from stillroom.errors import DataError
from stillroom.model.parts import image_trunk, trim_padding
from stillroom.parallel import available_cores
from stillroom.train.config import TrainConfig
from stillroom.train.faults import FaultList
from stillroom.train.gradients import Gradients
from stillroom.train.lanes import Order
from stillroom.train.loop import Scorer, Source, Trainer
from stillroom.train.memory import MemorySource, read_pictures
from stillroom.train.optimizer import build_optimizer
from stillroom.train.precision import autocast
from stillroom.train.prepare import Preparer, normalised
from stillroom.train.ranks import Ranks
from stillroom.train.resize import MARGIN, PictureReader
from stillroom.train.setup import build_model, stores_images
from stillroom.train.slots import Keep, KeepSet, SlotCounts, count_slots, keep_all
from stillroom.train.stream import ShardStream
from stillroom.train.student import MovingAverage, Student, build_heads
from stillroom.train.texts import TextFeatures, text_features

log = logging.getLogger("stillroom")


@dataclass(frozen=True, kw_only=True)
class Run:
    """What `train` needs of a run that is ready to start.

    Attributes:
        trainer: with everything a step needs.
        described: the content of `open_clip_config.json`.
        model: open_clip's.
        tokenizer: open_clip's.
        concepts: kind -> number of concepts that are distilled.
    """

    trainer: Trainer
    described: dict[str, Any]
    model: Any
    tokenizer: Any
    concepts: dict[str, int]


def assemble(
    inputs: Mapping[str, Any], config: TrainConfig, out: Path, ranks: Ranks, *, scorer: Scorer | None = None
) -> Run:
    """Build everything a run needs; every rank calls it.

    Raises:
        ConfigError: a recipe that cannot be carried out.
        DataError: DATA, its filter or its pseudo-labels do not fit together, or too few pairs are left.
        ArtifactError: the folders of other stages cannot be used.
    """
    torch.manual_seed(config.seed)
    described, model, tokenizer = build_model(config.model)
    shards = open_data(inputs["data"], config.data)
    keep = KeepSet.open(inputs["keep"], [shard.name for shard in shards]) if inputs["keep"] else keep_all
    labels = load_pseudo_labels(inputs["concepts"]) if config.loss.concept_weight > 0 else None
    workers = config.workers or max(1, available_cores() // ranks.node_size)
    slots = ranks.on_first(
        lambda: count_slots(shards, keep=keep, captions=config.model.stores_text, workers=min(workers, len(shards)))
    )
    _check_slots(slots, shards, config, labels)

    torch.manual_seed(config.seed + 1)
    model.to(ranks.device, memory_format=torch.channels_last)
    features = stores_images(model, config.model, config.augment)
    heads = build_heads(described["model_cfg"]["embed_dim"], labels.sizes if labels else {})
    soft = config.loss.soft_labels
    student = Student(
        model,
        heads.to(ranks.device),
        soft_scale=soft.initial_scale if soft.weight > 0 else None,
        image_features=features,
        text_features=config.model.stores_text,
    ).to(ranks.device)
    reader = PictureReader(preprocess=model.visual.preprocess_cfg, margin=MARGIN if config.augment.changes else 1.0)
    source = _source(shards, slots, keep, reader, config, ranks, workers, encode_with=model if features else None)
    if labels is not None and isinstance(source, MemorySource):
        _check_labels(labels, source)
    trainer = Trainer(
        config=config,
        steps=config.steps(slots.total),
        pairs=slots.total,
        gradients=Gradients(
            student=student,
            wrapped=_distributed(student, config, ranks),
            average=MovingAverage(student, config.ema) if config.ema.decay > 0 else None,
            loss=config.loss,
            ranks=ranks,
            precision=config.precision,
            scaler=torch.amp.GradScaler(ranks.device.type, enabled=config.precision == "fp16"),
            micro_batch=config.micro_batch,
        ),
        optimizer=build_optimizer(student, config.optimizer),
        source=source,
        preparer=Preparer(
            preprocess=model.visual.preprocess_cfg,
            side=reader.model_side,
            augment=config.augment,
            tokenizer=lambda captions: trim_padding(model, tokenizer(captions)),
            texts=_texts(model, tokenizer, slots, config, ranks),
            labels=labels,
            batch_size=config.batch_size,
            seed=config.seed,
            device=ranks.device,
        ),
        faults=FaultList(out, ranks.rank),
        tokenizer=tokenizer,
        scorer=scorer,
    )
    if ranks.first:
        trainer.faults.add(slots.faults)
    concepts = labels.sizes if labels else {}
    return Run(trainer=trainer, described=described, model=model, tokenizer=tokenizer, concepts=concepts)


def _check_slots(slots: SlotCounts, shards: Sequence[Shard], config: TrainConfig, labels: PseudoLabels | None) -> None:
    if slots.total == 0:
        reasons = sorted({fault.reason for fault in slots.faults})
        raise DataError(f"no pair is left to train on ({', '.join(reasons) or 'nothing kept by the filter'})")
    if slots.total < config.batch_size:
        raise DataError(f"batch_size is {config.batch_size} but only {slots.total} pairs are left to train on")
    if labels is not None:
        used = [shard.name for shard, count in zip(shards, slots.counts, strict=True) if count]
        lost = [name for name in used if name not in labels.stage.shards]
        if lost:
            raise DataError(missing_line(len(lost), len(used), [(lost[0], "...")]).replace("pairs", "shards", 1))


def _check_labels(labels: PseudoLabels, source: MemorySource) -> None:
    pairs = list(zip(source.shards, source.keys, strict=True))
    lost = [pair for pair in pairs if not labels.has(*pair)]
    if lost:
        raise DataError(missing_line(len(lost), len(pairs), lost[:5]))


def _source(
    shards: Sequence[Shard],
    slots: SlotCounts,
    keep: Keep,
    reader: PictureReader,
    config: TrainConfig,
    ranks: Ranks,
    workers: int,
    *,
    encode_with: Any,
) -> Source:
    """Return the pictures from memory where they fit, or their features, or a stream of them."""
    room = config.pixel_cache_mb * 2**20 // ranks.node_size
    if encode_with is None and slots.total * reader.side**2 * 3 > room:
        log.info("pictures take more than pixel_cache_mb: they are read and decoded as they are needed")
        return ShardStream(
            shards=shards,
            slots=slots,
            to_pixels=reader,
            keep=keep,
            batch_size=config.batch_size,
            lanes=config.stream.lanes,
            shuffle=config.stream.shuffle,
            seed=config.seed,
            workers=workers,
            rank=ranks.rank,
            world=ranks.world,
        )
    order = Order(
        counts=slots.counts,
        batch_size=config.batch_size,
        lanes=config.stream.lanes,
        shuffle=config.stream.shuffle,
        seed=config.seed,
    )

    def encode(pictures: np.ndarray) -> np.ndarray:
        tensor = torch.from_numpy(pictures).to(ranks.device)
        pixels = normalised(tensor.permute(0, 3, 1, 2).float().div_(255), reader.preprocess)
        with (
            torch.inference_mode(),
            autocast(ranks.device, config.precision),
        ):
            return image_trunk(encode_with, pixels).float().cpu().numpy().astype(np.float16)

    with ThreadPoolExecutor(workers) as pool:
        source = read_pictures(
            shards,
            slots,
            order,
            keep=keep,
            to_pixels=reader,
            pool=pool,
            encode=None if encode_with is None else encode,
            rank=ranks.rank,
            world=ranks.world,
        )
    if len(source.keys) < config.batch_size:
        raise DataError(f"batch_size is {config.batch_size} but only {len(source.keys)} pairs are left to train on")
    return source


def _texts(model: Any, tokenizer: Any, slots: SlotCounts, config: TrainConfig, ranks: Ranks) -> TextFeatures | None:
    if not config.model.stores_text:
        return None
    assert slots.captions is not None
    captions, cache = slots.captions, Path(config.cache) if config.cache else None
    return ranks.on_first(lambda: text_features(model.eval(), tokenizer, captions, device=ranks.device, cache=cache))


def _distributed(student: Student, config: TrainConfig, ranks: Ranks) -> Any:
    """Wrap the student so that gradients are averaged over ranks; alone it stays as it is."""
    if ranks.group is None:
        return student
    return torch.nn.parallel.DistributedDataParallel(
        student,
        device_ids=[ranks.device] if ranks.device.type == "cuda" else None,
        # The loop does it once a step, so that the moving averages of all ranks stay equal.
        broadcast_buffers=False,
        process_group=ranks.group,
        # Without a contrastive loss nothing reaches the text tower.
        find_unused_parameters=config.loss.contrastive_weight == 0,
    )
