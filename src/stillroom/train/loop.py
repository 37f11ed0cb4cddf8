"""The training loop: one optimiser step a batch, a log line, scores, checkpoints that resume exactly."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from stillroom.artifacts import write_json
from stillroom.errors import ArtifactError, DataError, StillroomError
from stillroom.model.locking import set_training_mode
from stillroom.model.towers import one_line
from stillroom.progress import progress
from stillroom.records import Fault
from stillroom.train.batch import Batch
from stillroom.train.checkpoints import Checkpoints, Saved
from stillroom.train.config import TrainConfig
from stillroom.train.faults import FaultList
from stillroom.train.gradients import Gradients
from stillroom.train.logs import METRICS, SPEED, Clock, RunLog
from stillroom.train.optimizer import set_learning_rate
from stillroom.train.prepare import Prepared, Preparer
from stillroom.train.schedule import learning_rate
from stillroom.train.scores import Scorer, score_if_due

log = logging.getLogger("stillroom")
T = TypeVar("T")
LOG_EVERY = 20


class Source(Protocol):
    """Where batches come from."""

    def batches(self, start: int, stop: int) -> Any:
        """Yield (Batch, list of faults) for steps `start` to `stop`."""
        ...


@dataclass(kw_only=True)
class Trainer:
    """Everything a step needs; `train_steps` drives it.

    Attributes:
        config: the recipe.
        steps: optimiser steps in all.
        pairs: usable pairs of the data, the length of an epoch.
        order: `order_digest` of the data.
        gradients: student, average and losses.
        optimizer: of the student.
        source: of batches.
        preparer: from batches to tensors.
        faults: pairs that could not be used.
        tokenizer: open_clip's.
        scorer: of the model during training; None for none.
        empty_steps: steps so far for which no rank had a pair.
    """

    config: TrainConfig
    steps: int
    pairs: int
    order: str
    gradients: Gradients
    optimizer: torch.optim.Optimizer
    source: Source
    preparer: Preparer
    faults: FaultList
    tokenizer: Any
    scorer: Scorer | None = None
    empty_steps: int = 0

    def batches(self, start: int, stop: int) -> Iterator[tuple[Batch, Prepared, list[Fault]]]:
        """Yield what steps `start` to `stop` take: captions as tokens, labels looked up."""
        for number, (batch, faults) in enumerate(self.source.batches(start, stop), start):
            yield batch, self.preparer.prepare(batch, number), faults

    def step(self, number: int, batch: Batch, prepared: Prepared) -> dict[str, float | None]:
        """Take optimiser step `number` (0-based); return what is logged, nothing if no rank has a pair.

        Such a step leaves the weights, but schedule and moving average go on. A loss or gradient that is not finite
        stops the run.
        """
        config, options = self.config, self.config.optimizer
        ranks, student = self.gradients.ranks, self.gradients.student
        # Dropout and stochastic depth: equal for equal steps, different on every rank.
        torch.manual_seed((config.seed * 1_000_003 + number) * 4096 + ranks.rank)
        rate = learning_rate(number, self.steps, config.batch_size, options)
        rates = set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        terms = self.gradients.backward(prepared)
        values, norm = self._descend(terms, batch, number) if terms else ({}, None)
        student.clamp_scales(options.max_logit_scale)
        if ranks.group is not None:
            ranks.spread([buffer for buffer in student.buffers() if buffer.is_floating_point()])
        if self.gradients.average is not None:
            self.gradients.average.update(student, number)
        if not values:
            self._skipped(number)
            return {}
        values["scale"] = float(student.model.logit_scale.detach().exp())
        if student.log_soft_scale is not None:
            values["soft_scale"] = float(student.log_soft_scale.detach().exp())
        return {**values, "grad_norm": norm, "lr": rate, **rates}

    def _descend(self, terms: dict[str, Tensor], batch: Batch, number: int) -> tuple[dict[str, float], float | None]:
        """Move the weights down the gradient; return the terms' means over ranks, and its norm before clipping.

        The norm is None where the gradient is beyond float16: the scaler leaves the step out and halves its factor,
        which is far above 1 to begin with. Below 1 it is no longer the factor that is at fault.
        """
        scaler, ranks = self.gradients.scaler, self.gradients.ranks
        means = (ranks.sum(torch.stack(list(terms.values()))) / ranks.world).tolist()
        values = dict(zip(terms, means, strict=True))
        if not all(math.isfinite(value) for value in means):
            self._stop_on("loss", values, batch, number)
        learning = [p for group in self.optimizer.param_groups for p in group["params"]]
        scaler.unscale_(self.optimizer)
        # Equal on all ranks, as the gradients are.
        norm = float(clip_grad_norm_(learning, self.config.optimizer.max_grad_norm or math.inf))
        finite = math.isfinite(norm)
        if not finite and (not scaler.is_enabled() or scaler.get_scale() < 1):
            self._stop_on("gradient", {**values, "grad_norm": norm}, batch, number)
        scaler.step(self.optimizer)
        scaler.update()
        return values, norm if finite else None

    def _skipped(self, number: int) -> None:
        """Count a step that had no pair; tell the first."""
        self.empty_steps += 1
        if self.empty_steps == 1 and self.gradients.ranks.first:
            log.warning("step %d has no pair whose picture can be read; such steps are left out and counted", number)

    def _stop_on(self, what: str, values: dict[str, float], batch: Batch, number: int) -> None:
        ranks = self.gradients.ranks
        keys = [key for part in ranks.collect(list(zip(batch.shards, batch.keys, strict=True))) for key in part]
        if ranks.first:
            write_json(self.faults.out / "not_finite.json", {"step": number, "batch": [list(key) for key in keys]})
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        few = ", ".join("/".join(key) for key in keys[:5])
        raise StillroomError(
            f"the {what} is not finite at step {number} ({shown}); the last checkpoint is kept; lower optimizer.lr "
            "in another folder, where model.start_from may be that checkpoint; "
            f"the batch begins with {few}, not_finite.json has all of it"
        )

    def state(self, steps_done: int) -> dict[str, Any]:
        """Return a checkpoint with open_clip's keys (`epoch, name, state_dict, optimizer`) and what we add.

        No random state is needed: everything random is drawn from the seed and the step.
        """
        student, average = self.gradients.student, self.gradients.average
        state = {
            **self._described(steps_done, student.model),
            "optimizer": self.optimizer.state_dict(),
            "pairs": self.pairs,
            "order": self.order,
            "concept_heads": student.heads.state_dict(),
            "scaler": self.gradients.scaler.state_dict(),
            "empty_steps": self.empty_steps,
        }
        if student.log_soft_scale is not None:
            state["log_soft_scale"] = student.log_soft_scale.detach()
        if average is not None:
            state["average"] = average.module.state_dict()
        return state

    def weights(self, steps_done: int) -> dict[str, Any]:
        """Return the model that the run is for with open_clip's keys; not enough to go on training."""
        return self._described(steps_done, self.exported())

    def _described(self, steps_done: int, model: Any) -> dict[str, Any]:
        epoch = steps_done * self.config.batch_size // self.pairs
        return {"epoch": epoch, "name": "stillroom", "state_dict": model.state_dict(), "step": steps_done}

    def restore(self, state: dict[str, Any]) -> int:
        """Load a checkpoint of the same run; return how many steps were done.

        Raises:
            ArtifactError: it is of another model, or of data with other pairs.
        """
        student, average = self.gradients.student, self.gradients.average
        if state.get("pairs") != self.pairs:
            raise ArtifactError(
                f"the checkpoint's data had {state.get('pairs')} usable pairs, DATA now has {self.pairs}: the order of "
                "pairs would not go on; start again in another folder"
            )
        if state.get("order", self.order) != self.order:
            raise ArtifactError(
                "the checkpoint's data had other shards, or the same in another order or with other numbers of usable "
                "pairs: the order of pairs would not go on; start again in another folder"
            )
        try:
            student.model.load_state_dict(state["state_dict"])
            student.heads.load_state_dict(state["concept_heads"])
            if student.log_soft_scale is not None:
                student.log_soft_scale.data.copy_(state["log_soft_scale"])
            if average is not None:
                average.module.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.gradients.scaler.load_state_dict(state["scaler"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise ArtifactError(f"the checkpoint is not of this model: {one_line(error)}") from None
        self.empty_steps = state.get("empty_steps", 0)
        return int(state["step"])

    def exported(self) -> Any:
        """Return the model that the run is for: the student's, or the average where the recipe says so."""
        average = self.gradients.average
        chosen = average.module if average is not None and self.config.ema.export else self.gradients.student
        return chosen.model


def train_steps(trainer: Trainer, out: Path, *, resume: Saved | None, description: str) -> None:
    """Run all steps that are not done yet, going on from the checkpoint `resume` if there is one."""
    config, ranks = trainer.config, trainer.gradients.ranks
    every = max(1, config.checkpoint_samples // config.batch_size)
    damaged = resume.damaged if resume is not None else ()
    checkpoints = Checkpoints(out / "checkpoints", keep=config.keep_checkpoints, damaged=damaged)
    # Loaded here and held no longer than it takes: it is as large as model and optimizer.
    done = 0 if resume is None else ranks.on_every(lambda: trainer.restore(checkpoints.load(resume)))
    journal = RunLog(out, steps_done=done, tensorboard=config.tensorboard) if ranks.first else None
    score_if_due(trainer, done, checkpoints, journal)
    clock, saved = Clock(ranks.device), time.monotonic()
    set_training_mode(trainer.gradients.student)
    batches = one_ahead(trainer.batches(done, trainer.steps))
    with progress(description, trainer.steps * config.batch_size) as shown:
        shown.advance(done * config.batch_size)
        for number in range(done, trainer.steps):
            asked = time.monotonic()
            batch, prepared, faults = next(batches)
            clock.add(config.batch_size, time.monotonic() - asked)
            trainer.faults.add(faults)
            values = trainer.step(number, batch, prepared)
            step, last = number + 1, number + 1 == trainer.steps
            shown.advance(config.batch_size, f"loss {values['loss']:.3f}" if values else "no pair")
            if journal is not None and (step % LOG_EVERY == 0 or last):
                if values:
                    journal.write(METRICS, {"step": step, "samples": step * config.batch_size, **values})
                journal.write(SPEED, {"step": step, **clock.row()})
            late = config.checkpoint_minutes > 0 and time.monotonic() - saved > config.checkpoint_minutes * 60
            if ranks.first and (step % every == 0 or last or late):
                checkpoints.save(step, trainer.state(step))
                saved = time.monotonic()
            # After the checkpoint: whatever happens while a model is scored, its training is not lost.
            score_if_due(trainer, step, checkpoints, journal)
    if journal is not None:
        journal.close()
    _tell_empty_steps(trainer)


def _tell_empty_steps(trainer: Trainer) -> None:
    empty, steps = trainer.empty_steps, trainer.steps
    if empty == steps:
        raise DataError(
            f"none of the {steps} steps had a pair whose picture can be read, so nothing was learned; "
            f"the faults-rank*.jsonl in {trainer.faults.out} name the pictures and what is wrong with them"
        )
    if empty and trainer.gradients.ranks.first:
        log.warning("%d of %d steps had no pair whose picture can be read, and were left out", empty, steps)


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield from an iterator whose next item is made in a thread while the current one is used."""
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(next, items, None)
        while (item := pending.result()) is not None:
            pending = pool.submit(next, items, None)
            yield item
