"""`stillroom train`: pairs, a filter's verdict and pseudo-labels in; a model folder out."""

from __future__ import annotations

import hashlib
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.artifacts import StageWriter, open_stage, read_json
from stillroom.data import open_data
from stillroom.data.contents import contents, require_same_contents
from stillroom.errors import ArtifactError, ConfigError
from stillroom.model.checkpoint import save_model_config, save_model_folder
from stillroom.model.device import memory_told
from stillroom.train.config import TrainConfig

if TYPE_CHECKING:
    from stillroom.train.assemble import Run
    from stillroom.train.loop import Scorer
    from stillroom.train.ranks import Ranks


def run(
    data: str | None,
    config: TrainConfig,
    out: Path,
    *,
    keep: Path | None = None,
    concepts: Path | None = None,
    resume: bool = False,
    scorer: Scorer | None = None,
) -> dict[str, Any]:
    """Train a dual encoder and write it to `out` as a model folder.

    Called by every rank that torchrun starts, or by one process; the first rank writes.

    Args:
        data: DATA, see `stillroom.data.open_data`; None takes the recipe's.
        config: the recipe.
        out: output folder; a finished one is returned as it is.
        keep: output of `stillroom filter`; only kept pairs take part. None takes the recipe's.
        concepts: output of `stillroom concepts`; needed with `loss.concept_weight` above 0. None takes the recipe's.
        resume: go on from the newest checkpoint of an unfinished run, if there is one.
        scorer: of models during training, see `stillroom.evaluate.during_training`; used with `evaluation.tasks`.

    Returns:
        The summary: pairs, steps, parameters, faults by reason.
    """
    from stillroom.train.ranks import open_ranks

    inputs = resolve_inputs(data, config, keep, concepts)
    opened: list[StageWriter] = []

    def claim() -> dict[str, Any] | None:
        """Claim the output folder; return the summary if it is finished."""
        writer = _open(inputs, config, out, resume=resume)
        if writer.complete:
            return dict(read_json(out / "summary.json"))
        opened.append(writer)
        if scorer is not None:
            with writer.released_on_error():
                scorer.check()
        return None

    with open_ranks(config.device) as ranks:
        finished = ranks.on_first(claim)
        if finished is not None:
            return finished
        started = time.monotonic()
        with opened[0].released_on_error() if ranks.first else nullcontext(), memory_told("lower micro_batch"):
            summary = _train(inputs, config, out, ranks, scorer)
        if ranks.first:
            opened[0].finish(summary, shards=[], timings={"seconds": round(time.monotonic() - started, 1)})
        return summary


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a run trains on.

    Attributes:
        data: DATA.
        keep: output folder of `stillroom filter`; None keeps every pair.
        concepts: output folder of `stillroom concepts`; None without concept distillation.
    """

    data: str
    keep: Path | None
    concepts: Path | None


def resolve_inputs(data: str | None, config: TrainConfig, keep: Path | None, concepts: Path | None) -> Inputs:
    """Return what to train on: what was given, or else the recipe's own.

    Raises:
        ConfigError: no DATA, or concept distillation without pseudo-labels.
    """
    given = config.inputs
    place = data or given.data
    if place is None:
        raise ConfigError("no DATA: give it behind the recipe, or as inputs.data in it")
    found = Inputs(
        data=place,
        keep=keep or (Path(given.keep) if given.keep else None),
        concepts=concepts or (Path(given.concepts) if given.concepts else None),
    )
    if config.loss.concept_weight > 0 and found.concepts is None:
        raise ConfigError(
            "loss.concept_weight is above 0 but no pseudo-labels were given: --concepts C, or set it to 0"
        )
    return found


def _open(inputs: Inputs, config: TrainConfig, out: Path, *, resume: bool) -> StageWriter:
    """Claim the output folder, which may be finished.

    Raises:
        ArtifactError: it is of another run, or the filter or the labels were made before DATA changed.
    """
    found = contents(open_data(inputs.data, config.data))
    for folder, stage in ((inputs.keep, "filter"), (inputs.concepts, "concepts")):
        if folder is not None:
            require_same_contents(open_stage(folder, stage), found)
    described = {
        # By content, not by place, so that equal runs write equal files.
        "data": inputs.data,
        "contents": found,
        "keep": _digest(inputs.keep),
        "concepts": _digest(inputs.concepts),
    }
    writer = StageWriter(out, stage="train", config=config.identity(), inputs=described, seed=config.seed)
    unfinished = not writer.complete and any((out / "checkpoints").glob("step-*.pt"))
    if unfinished and not resume:
        raise ArtifactError(f"--out {out} holds an unfinished run; --resume goes on with it, or choose another folder")
    return writer


def _digest(folder: Path | None) -> str | None:
    return None if folder is None else hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()


def _train(inputs: Inputs, config: TrainConfig, out: Path, ranks: Ranks, scorer: Scorer | None) -> dict[str, Any]:
    from stillroom.train.assemble import assemble
    from stillroom.train.checkpoints import Checkpoints
    from stillroom.train.faults import collect_faults
    from stillroom.train.loop import train_steps
    from stillroom.train.slot_file import CAPTIONS

    # Before anything is read: a damaged checkpoint is told at once. By one rank: what others see of a folder over a
    # network may be older, and all must go on from the same step.
    newest = ranks.on_first(Checkpoints(out / "checkpoints", keep=config.keep_checkpoints).newest)
    ready = assemble(inputs, config, out, ranks, scorer=scorer)
    if ranks.first:
        # So that checkpoints can be loaded as models while the run goes on.
        save_model_config(out, ready.described, ready.model, ready.tokenizer)
    train_steps(ready.trainer, out, resume=newest, description=f"train {out.name}")
    ranks.collect(None)
    if not ranks.first:
        return {}
    save_model_folder(out, ready.described, ready.trainer.exported().eval(), ready.tokenizer)
    # A model's folder is handed on; the captions it was trained on are not part of it.
    (out / CAPTIONS).unlink(missing_ok=True)
    return {**_summary(ready), **collect_faults(out)}


def _summary(ready: Run) -> dict[str, Any]:
    trainer, model = ready.trainer, ready.model
    return {
        "pairs": trainer.pairs,
        "samples": trainer.steps * trainer.config.batch_size,
        "steps": trainer.steps,
        "empty_steps": trainer.empty_steps,
        "parameters": sum(p.numel() for p in model.parameters()),
        "learning_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "concepts": ready.concepts,
    }
