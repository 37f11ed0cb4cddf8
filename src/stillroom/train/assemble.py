"""A run put together: data counted, model built, sources and losses chosen, everything on its device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stillroom.concepts.join import PseudoLabels, load_pseudo_labels, missing_line
from stillroom.data import Shard, open_data
from stillroom.errors import DataError
from stillroom.model.parts import trim_padding
from stillroom.parallel import available_cores
from stillroom.train.config import TrainConfig
from stillroom.train.faults import FaultList
from stillroom.train.gradients import Gradients
from stillroom.train.loop import Scorer, Trainer
from stillroom.train.memory import MemorySource
from stillroom.train.optimizer import build_optimizer
from stillroom.train.prepare import Preparer
from stillroom.train.ranks import Ranks
from stillroom.train.resize import MARGIN, PictureReader
from stillroom.train.run import Inputs
from stillroom.train.setup import build_model, stores_images
from stillroom.train.slots import KeepSet, SlotCounts, count_slots, keep_all
from stillroom.train.sources import Sources
from stillroom.train.stored import StoredFeatures
from stillroom.train.student import MovingAverage, Student, build_heads
from stillroom.train.texts import text_features


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


def assemble(inputs: Inputs, config: TrainConfig, out: Path, ranks: Ranks, *, scorer: Scorer | None = None) -> Run:
    """Build everything a run needs; every rank calls it.

    Raises:
        ConfigError: a recipe that cannot be carried out.
        DataError: DATA, its filter or its pseudo-labels do not fit together, or too few pairs are left.
        ArtifactError: the folders of other stages cannot be used.
    """
    torch.manual_seed(config.seed)
    described, model, tokenizer = build_model(config.model)
    shards = open_data(inputs.data, config.data)
    keep = KeepSet.open(inputs.keep, [shard.name for shard in shards]) if inputs.keep else keep_all
    # Pseudo-labels may be given to a recipe that does not use them.
    labels = load_pseudo_labels(inputs.concepts) if inputs.concepts and config.loss.concept_weight > 0 else None
    workers = config.workers or max(1, available_cores() // ranks.node_size)
    slots = ranks.on_first(
        # A process takes two seconds to start, a shard of 10,000 pairs about one to count.
        lambda: count_slots(
            shards, keep=keep, captions=config.model.stores_text, workers=min(workers, len(shards) // 8)
        )
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
    sources = Sources(shards=shards, slots=slots, keep=keep, reader=reader, config=config, ranks=ranks, workers=workers)
    source = sources.features(model) if features else sources.pictures()
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


def _texts(model: Any, tokenizer: Any, slots: SlotCounts, config: TrainConfig, ranks: Ranks) -> StoredFeatures | None:
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
