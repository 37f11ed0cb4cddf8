"""The training loop: one optimiser step a batch, a log line, scores, checkpoints that resume exactly."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from stillroom.artifacts import write_json
from stillroom.errors import ArtifactError, StillroomError
from stillroom.model.load import eval_transform
from stillroom.model.locking import set_training_mode
from stillroom.model.towers import one_line
from stillroom.progress import progress
from stillroom.records import Fault
from stillroom.train.batch import Batch
from stillroom.train.checkpoints import Checkpoints
from stillroom.train.config import TrainConfig
from stillroom.train.faults import FaultList
from stillroom.train.gradients import Gradients
from stillroom.train.logs import METRICS, SCORES, SPEED, Clock, RunLog
from stillroom.train.optimizer import set_learning_rate
from stillroom.train.prepare import Prepared, Preparer
from stillroom.train.schedule import learning_rate

log = logging.getLogger("stillroom")
T = TypeVar("T")
LOG_EVERY = 20
# From open_clip's (model, preprocess, tokenizer) to scores by "task/metric", higher is better.
Scorer = Callable[[tuple[Any, Any, Any]], Mapping[str, float]]


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
        gradients: student, average and losses.
        optimizer: of the student.
        source: of batches.
        preparer: from batches to tensors.
        faults: pairs that could not be used.
        tokenizer: open_clip's.
        scorer: of the model during training; None for none.
    """

    config: TrainConfig
    steps: int
    pairs: int
    gradients: Gradients
    optimizer: torch.optim.Optimizer
    source: Source
    preparer: Preparer
    faults: FaultList
    tokenizer: Any
    scorer: Scorer | None = None
    best: float = field(default=float("-inf"))

    def batches(self, start: int, stop: int) -> Iterator[tuple[Batch, Prepared | None, list[Fault]]]:
        """Yield what steps `start` to `stop` take: captions as tokens, labels looked up; None for an empty batch."""
        for number, (batch, faults) in enumerate(self.source.batches(start, stop), start):
            yield batch, self.preparer.prepare(batch, number) if len(batch) else None, faults

    def step(self, number: int, batch: Batch, prepared: Prepared) -> dict[str, float]:
        """Take optimiser step `number` (0-based); return what is logged. A loss that is not finite stops the run."""
        config, options, ranks = self.config, self.config.optimizer, self.gradients.ranks
        student, scaler = self.gradients.student, self.gradients.scaler
        # Dropout and stochastic depth: equal for equal steps, different on every rank.
        torch.manual_seed((config.seed * 1_000_003 + number) * 4096 + ranks.rank)
        rate = learning_rate(number, self.steps, config.batch_size, options)
        rates = set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        terms = self.gradients.backward(prepared)
        means = (ranks.sum(torch.stack(list(terms.values()))) / ranks.world).tolist()
        values = dict(zip(terms, means, strict=True))
        if not all(abs(value) < float("inf") for value in means):
            self._stop_on(values, batch, number)
        learning = [p for group in self.optimizer.param_groups for p in group["params"]]
        scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(learning, options.max_grad_norm or float("inf"))
        scaler.step(self.optimizer)
        scaler.update()
        student.clamp_scales(options.max_logit_scale)
        if ranks.group is not None:
            ranks.spread([buffer for buffer in student.buffers() if buffer.is_floating_point()])
        if self.gradients.average is not None:
            self.gradients.average.update(student, number)
        values["scale"] = float(student.model.logit_scale.detach().exp())
        if student.log_soft_scale is not None:
            values["soft_scale"] = float(student.log_soft_scale.detach().exp())
        return {**values, "grad_norm": float(norm), "lr": rate, **rates}

    def _stop_on(self, values: dict[str, float], batch: Batch, number: int) -> None:
        ranks = self.gradients.ranks
        keys = [key for part in ranks.collect(list(zip(batch.shards, batch.keys, strict=True))) for key in part]
        if ranks.first:
            write_json(self.faults.out / "not_finite.json", {"step": number, "batch": [list(key) for key in keys]})
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        few = ", ".join("/".join(key) for key in keys[:5])
        raise StillroomError(
            f"the loss is not finite at step {number} ({shown}); the last checkpoint is kept; lower optimizer.lr; "
            f"the batch begins with {few}, not_finite.json has all of it"
        )

    def state(self, steps_done: int) -> dict[str, Any]:
        """Return a checkpoint with open_clip's keys (`epoch, name, state_dict, optimizer`) and what we add.

        No random state is needed: everything random is drawn from the seed and the step.
        """
        student, average = self.gradients.student, self.gradients.average
        state = {
            "epoch": steps_done * self.config.batch_size // self.pairs,
            "name": "stillroom",
            "state_dict": student.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": steps_done,
            "pairs": self.pairs,
            "concept_heads": student.heads.state_dict(),
            "scaler": self.gradients.scaler.state_dict(),
            "best": self.best,
        }
        if student.log_soft_scale is not None:
            state["log_soft_scale"] = student.log_soft_scale.detach()
        if average is not None:
            state["average"] = average.module.state_dict()
        return state

    def restore(self, state: dict[str, Any]) -> int:
        """Load a checkpoint of the same run; return how many steps were done.

        Raises:
            ArtifactError: it is of another model, or of data with another number of pairs.
        """
        student, average = self.gradients.student, self.gradients.average
        if state.get("pairs") != self.pairs:
            raise ArtifactError(
                f"the checkpoint's data had {state.get('pairs')} usable pairs, DATA now has {self.pairs}: the order of "
                "pairs would not go on; start again in another folder"
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
        self.best = state["best"]
        return int(state["step"])

    def exported(self) -> Any:
        """Return the model that the run is for: the student's, or the average where the recipe says so."""
        average = self.gradients.average
        chosen = average.module if average is not None and self.config.ema.export else self.gradients.student
        return chosen.model


def train_steps(trainer: Trainer, out: Path, *, resume: dict[str, Any] | None, description: str) -> None:
    """Run all steps that are not done yet, going on from the checkpoint `resume` if there is one."""
    config, ranks = trainer.config, trainer.gradients.ranks
    done = trainer.restore(resume) if resume is not None else 0
    every = max(1, config.checkpoint_samples // config.batch_size)
    checkpoints = Checkpoints(out / "checkpoints", keep=config.keep_checkpoints)
    journal = RunLog(out, steps_done=done, tensorboard=config.tensorboard) if ranks.first else None
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
            if prepared is None:
                raise StillroomError(f"rank {ranks.rank}: every picture of its batch at step {number} is broken")
            values = trainer.step(number, batch, prepared)
            step, last = number + 1, number + 1 == trainer.steps
            shown.advance(config.batch_size, f"loss {values['loss']:.3f}")
            if journal is not None and (step % LOG_EVERY == 0 or last):
                journal.write(METRICS, {"step": step, "samples": step * config.batch_size, **values})
                journal.write(SPEED, {"step": step, **clock.row()})
            better = _score(trainer, step, journal, last=last)
            late = config.checkpoint_minutes > 0 and time.monotonic() - saved > config.checkpoint_minutes * 60
            if ranks.first and (step % every == 0 or last or better or late):
                checkpoints.save(step, trainer.state(step), best=better)
                saved = time.monotonic()
    if journal is not None:
        journal.close()


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield from an iterator whose next item is made in a thread while the current one is used."""
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(next, items, None)
        while (item := pending.result()) is not None:
            pending = pool.submit(next, items, None)
            yield item


def _score(trainer: Trainer, step: int, journal: RunLog | None, *, last: bool) -> bool:
    """Score the model on the first rank when it is due; return whether it is the best so far, by the mean score."""
    config = trainer.config
    every = max(1, config.evaluation.every_samples // config.batch_size)
    if trainer.scorer is None or (step % every and not last):
        return False
    scorer, model = trainer.scorer, trainer.exported()

    def scored() -> Mapping[str, float]:
        return scorer((model.eval(), eval_transform(model), trainer.tokenizer))

    scores = trainer.gradients.ranks.on_first(scored)
    set_training_mode(trainer.gradients.student)
    mean = sum(scores.values()) / len(scores)
    if journal is not None:
        journal.write(SCORES, {"step": step, "mean": mean, **scores})
        log.info("step %d: %s", step, ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
    better, trainer.best = mean > trainer.best, max(mean, trainer.best)
    return better
