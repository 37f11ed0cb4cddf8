"""Loss and gradients of a batch, in one go or, for batches beyond memory, with gradient caching.

Gradient caching (Gao et al. 2021, "GradCache", arXiv 2101.06983): embed the batch part by part without a graph, take
the loss of all embeddings and its gradient with respect to them, then embed each part again, with a graph, and hand it
its embeddings' gradient. Loss and gradient are the big batch's; only one part's activations are held at a time. Batch
norm sees a part's statistics instead of the batch's, in both passes alike, and moves its running averages once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from stillroom.train.config import LossConfig
from stillroom.train.objective import PairTensors, concept_losses, pair_losses, weighted_sum
from stillroom.train.precision import Precision, autocast
from stillroom.train.prepare import Part, Prepared
from stillroom.train.ranks import Ranks
from stillroom.train.student import Embedded, MovingAverage, Student


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """Fills the student's gradients from a batch.

    Attributes:
        student: the bare module.
        wrapped: the student, or DDP around it, which averages gradients over ranks.
        average: the teacher of soft labels; None without.
        loss: what is minimised.
        ranks: of the run.
        precision: of the towers' arithmetic.
        scaler: of losses in float16; disabled otherwise.
        micro_batch: pairs whose activations are held at once; None for all.
    """

    student: Student
    wrapped: Any
    average: MovingAverage | None
    loss: LossConfig
    ranks: Ranks
    precision: Precision
    scaler: Any
    micro_batch: int | None

    def backward(self, batch: Prepared) -> dict[str, Tensor]:
        """Add the batch's gradients to the parameters'; return the terms of the loss, detached, and their sum "loss".

        Terms are scaled over ranks as the losses are: their mean over ranks is the batch's.
        """
        size = self.micro_batch or len(batch)
        parts = [slice(start, min(start + size, len(batch))) for start in range(0, len(batch), size)]
        # W n / N of this rank's n among N pairs.
        pairs = torch.tensor(float(len(batch)), device=self.ranks.device)
        share = self.ranks.world / float(self.ranks.sum(pairs))
        terms = self._whole(batch, share) if len(parts) == 1 else self._cached(batch, parts, share)
        return {name: term.detach() for name, term in terms.items()}

    def _whole(self, batch: Prepared, share: float) -> dict[str, Tensor]:
        part = batch.part(slice(None))
        with autocast(self.ranks.device, self.precision):
            embedded = self.wrapped(part.pictures, part.texts)
        pairs = PairTensors(
            image=embedded.image, text=embedded.text, scale=embedded.scale, soft_scale=embedded.soft_scale
        )
        terms = pair_losses(pairs, self._teach(part), self.loss, batch.caption_ids, self.ranks.group)
        terms |= concept_losses(embedded.logits, part.targets, share * len(batch))
        total = weighted_sum(terms, self.loss)
        self.scaler.scale(total).backward()
        return {"loss": total, **terms}

    def _cached(self, batch: Prepared, parts: list[slice], share: float) -> dict[str, Tensor]:
        states: list[Any] = []
        embedded: list[Embedded] = []
        taught: list[tuple[Tensor, Tensor]] = []
        with torch.no_grad(), _still_statistics(self.student):
            for rows in parts:
                part = batch.part(rows)
                states.append(_random_state(self.ranks.device))
                with autocast(self.ranks.device, self.precision):
                    embedded.append(self.student(part.pictures, part.texts))
                if (teacher := self._teach(part)) is not None:
                    taught.append(teacher)
        leaves = PairTensors(
            image=torch.cat([one.image for one in embedded]).requires_grad_(),
            text=torch.cat([one.text for one in embedded]).requires_grad_(),
            scale=embedded[0].scale.detach().requires_grad_(),
            soft_scale=None if embedded[0].soft_scale is None else embedded[0].soft_scale.detach().requires_grad_(),
        )
        teacher = (torch.cat([i for i, _ in taught]), torch.cat([t for _, t in taught])) if taught else None
        terms = pair_losses(leaves, teacher, self.loss, batch.caption_ids, self.ranks.group)
        total = weighted_sum(terms, self.loss) if terms else torch.zeros((), device=self.ranks.device)
        if terms:
            self.scaler.scale(total).backward()
        sums: dict[str, Tensor] = {}
        for number, rows in enumerate(parts):
            _set_random_state(states[number], self.ranks.device)
            last = number == len(parts) - 1
            with self._accumulation(last=last):
                concept = self._backward_part(batch.part(rows), rows, leaves, share, last=last)
            for kind, term in concept.items():
                sums[kind] = sums[kind] + term if kind in sums else term
        total = total.detach() + (weighted_sum(sums, self.loss) if sums else 0.0)
        return {"loss": total, **terms, **sums}

    def _backward_part(
        self, part: Part, rows: slice, leaves: PairTensors, share: float, *, last: bool
    ) -> dict[str, Tensor]:
        """Embed a part with a graph and send its embeddings' gradient back; the scales' goes with the last part."""
        with autocast(self.ranks.device, self.precision):
            embedded = self.wrapped(part.pictures, part.texts)
        concept = concept_losses(embedded.logits, part.targets, share * (rows.stop - rows.start))
        outputs: list[Tensor] = [embedded.image, embedded.text]
        gradients: list[Tensor | None] = [
            None if leaf.grad is None else leaf.grad[rows] for leaf in (leaves.image, leaves.text)
        ]
        if last:
            outputs += [scale for scale in (embedded.scale, embedded.soft_scale) if scale is not None]
            gradients += [scale.grad for scale in (leaves.scale, leaves.soft_scale) if scale is not None]
        given = [
            (output, gradient) for output, gradient in zip(outputs, gradients, strict=True) if gradient is not None
        ]
        if concept:
            given.append((self.scaler.scale(weighted_sum(concept, self.loss)), None))  # type: ignore[arg-type]
        torch.autograd.backward([output for output, _ in given], [gradient for _, gradient in given])
        return {kind: term.detach() for kind, term in concept.items()}

    @torch.no_grad()
    def _teach(self, part: Part) -> tuple[Tensor, Tensor] | None:
        if self.average is None or self.loss.soft_labels.weight == 0:
            return None
        with autocast(self.ranks.device, self.precision):
            embedded = self.average.module(part.pictures, part.texts)
        return embedded.image, embedded.text

    def _accumulation(self, *, last: bool) -> Any:
        """DDP talks to the other ranks with the last part only."""
        return nullcontext() if last or self.wrapped is self.student else self.wrapped.no_sync()


@contextmanager
def _still_statistics(module: torch.nn.Module) -> Iterator[None]:
    """Let batch norm use a part's statistics without moving its running averages."""
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.track_running_stats]
    saved = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    try:
        yield
    finally:
        for buffer, value in saved:
            buffer.copy_(value)


def _random_state(device: torch.device) -> Any:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: Any, device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
