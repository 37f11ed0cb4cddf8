"""A run put together: data counted, model built, sources and losses chosen, everything on its device."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from stillroom.concepts.join import PseudoLabels, load_pseudo_labels
from stillroom.data import Shard, open_data
from stillroom.errors import DataError, StillroomError, WriteError
from stillroom.model.parts import trim_padding
from stillroom.parallel import available_cores
from stillroom.train.checkpoints import order_digest
from stillroom.train.config import TrainConfig
from stillroom.train.faults import FaultList
from stillroom.train.gradients import Gradients
from stillroom.train.label_check import LabelKeys, check_pairs, check_shards, check_stream
from stillroom.train.loop import Scorer, Trainer
from stillroom.train.memory import MemorySource
from stillroom.train.optimizer import build_optimizer
from stillroom.train.prepare import Preparer
from stillroom.train.ranks import Ranks
from stillroom.train.resize import MARGIN, PictureReader
from stillroom.train.run import Inputs
from stillroom.train.setup import build_model, stores_images
from stillroom.train.slot_file import CAPTIONS, SLOTS, SlotFile, has_begun, run_inputs
from stillroom.train.slots import Keep, KeepSet, SlotCounts, count_slots, counting_workers, keep_all
from stillroom.train.sources import Sources
from stillroom.train.stored import StoredFeatures
from stillroom.train.student import MovingAverage, Student, build_heads, freeze_unreached
from stillroom.train.texts import text_features

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


def assemble(inputs: Inputs, config: TrainConfig, out: Path, ranks: Ranks, *, scorer: Scorer | None = None) -> Run:
    """Build everything a run needs; every rank calls it.

    Raises:
        ConfigError: a recipe that cannot be carried out.
        DataError: DATA, its filter or its pseudo-labels do not fit together, or too few pairs are left.
        ArtifactError: the folders of other stages cannot be used.
    """
    try:
        return _assemble(inputs, config, out, ranks, scorer)
    except WriteError:
        raise
    except StillroomError:
        # So that the folder can be given up: a run with other options may want it.
        if ranks.first and not has_begun(out):
            for path in (out / SLOTS, out / CAPTIONS, FaultList(out, 0).path):
                path.unlink(missing_ok=True)
        raise


def _assemble(inputs: Inputs, config: TrainConfig, out: Path, ranks: Ranks, scorer: Scorer | None) -> Run:
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks != "1" and ranks.group is None:
        log.warning("srun has started %s processes, but this one trains alone: several train under torchrun", tasks)
    torch.manual_seed(config.seed)
    described, model, tokenizer = build_model(config.model)
    shards = open_data(inputs.data, config.data)
    keep = KeepSet.open(inputs.keep, [shard.name for shard in shards]) if inputs.keep else keep_all
    # Pseudo-labels may be given to a recipe that does not use them.
    labels = load_pseudo_labels(inputs.concepts) if inputs.concepts and config.loss.concept_weight > 0 else None
    faults = FaultList(out, ranks.rank)
    # What grows with the number of pairs stays on the first rank.
    whole: list[SlotCounts] = []

    def counted() -> SlotCounts:
        whole.append(_slots(inputs, config, out, _Counting(shards, keep, labels, faults), ranks.node_size))
        return whole[0].bare

    slots = ranks.on_first(counted)
    if labels is not None:
        check_shards(labels, slots, shards)

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
    freeze_unreached(student, config.loss)
    reader = PictureReader(preprocess=model.visual.preprocess_cfg, margin=MARGIN if config.augment.changes else 1.0)
    workers = config.workers or max(1, available_cores() // ranks.node_size)
    sources = Sources(shards=shards, slots=slots, keep=keep, reader=reader, config=config, ranks=ranks, workers=workers)
    if labels is not None and not features and sources.streams:
        ranks.on_first(lambda: check_stream(labels, whole[0]))
    source = sources.features(model) if features else sources.pictures()
    if labels is not None and isinstance(source, MemorySource):
        check_pairs(labels, source)
    trainer = Trainer(
        config=config,
        steps=config.steps(slots.total),
        pairs=slots.total,
        order=order_digest([shard.name for shard in shards], slots.counts),
        gradients=Gradients(
            student=student,
            wrapped=distributed(student, ranks),
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
            texts=_texts(model, tokenizer, whole, config, ranks),
            labels=labels,
            batch_size=config.batch_size,
            seed=config.seed,
            device=ranks.device,
        ),
        faults=faults,
        tokenizer=tokenizer,
        scorer=scorer,
    )
    concepts = labels.sizes if labels else {}
    return Run(trainer=trainer, described=described, model=model, tokenizer=tokenizer, concepts=concepts)


class _Counting(NamedTuple):
    shards: Sequence[Shard]
    keep: Keep
    labels: PseudoLabels | None
    faults: FaultList


def _slots(inputs: Inputs, config: TrainConfig, out: Path, counting: _Counting, node_size: int) -> SlotCounts:
    """Return the slots of the run as it began, or count them on all cores of this machine and write them down."""
    shards, keep, labels, faults = counting
    captions = config.model.stores_text
    file = SlotFile(out, shards, described=run_inputs(out), data=config.data)
    found = file.read(captions=captions)
    if found is not None:
        log.info("pairs: %s, counted when the run began", f"{found.total:,}")
        return found
    found = count_slots(
        shards,
        keep=keep,
        captions=captions,
        labelled=None if labels is None else LabelKeys.open(labels, shards),
        workers=counting_workers(config.workers * node_size or available_cores(), len(shards)),
    )
    _check_slots(found, config)
    faults.add(found.faults)
    file.write(found)
    return found


def _check_slots(slots: SlotCounts, config: TrainConfig) -> None:
    if slots.total == 0:
        reasons = sorted({fault.reason for fault in slots.faults})
        raise DataError(f"no pair is left to train on ({', '.join(reasons) or 'nothing kept by the filter'})")
    if slots.total < config.batch_size:
        raise DataError(f"batch_size is {config.batch_size} but only {slots.total} pairs are left to train on")


def _texts(
    model: Any, tokenizer: Any, whole: list[SlotCounts], config: TrainConfig, ranks: Ranks
) -> StoredFeatures | None:
    if not config.model.stores_text:
        return None
    cache = Path(config.cache) if config.cache else None

    def encoded() -> StoredFeatures:
        captions = whole.pop().captions
        assert captions is not None
        return text_features(model.eval(), tokenizer, captions, device=ranks.device, cache=cache)

    return ranks.on_first(encoded)


def distributed(student: Student, ranks: Ranks) -> Any:
    """Wrap the student so that gradients are averaged over ranks; alone it stays as it is."""
    if ranks.group is None:
        return student
    wrapper = torch.nn.parallel.DistributedDataParallel
    # The loop spreads buffers once a step, so that the moving averages of all ranks stay equal. torch 2.13 renamed it.
    known = inspect.signature(wrapper).parameters
    spread: dict[str, Any] = {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}
    return wrapper(
        student,
        device_ids=[ranks.device] if ranks.device.type == "cuda" else None,
        process_group=ranks.group,
        **spread,
    )
