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

        Terms are scaled over ranks as the losses are: their mean over ranks is the batch's. Without a pair on any rank
        there are no terms and no gradients.
        """
        counts = self.ranks.numbers(len(batch))
        if not any(counts):
            return {}
        # W n / N of this rank's n among N pairs.
        share = self.ranks.world / sum(counts)
        size = self.micro_batch or max(counts)
        # All ranks go the same way, whatever their own parts: the losses and DDP talk to other ranks, DDP also before
        # its second forward pass, and the two ways do so in another order.
        cached = max(counts) > size
        with nullcontext() if len(batch) else _still_statistics(self.student):
            terms = self._cached(batch, size, share) if cached else self._whole(batch, share)
        return {name: term.detach() for name, term in terms.items()}

    def _whole(self, batch: Prepared, share: float) -> dict[str, Tensor]:
        part = batch.part(slice(0, len(batch)))
        embedded = self._embed(self.wrapped, part, len(batch))
        pairs = PairTensors(
            image=embedded.image, text=embedded.text, scale=embedded.scale, soft_scale=embedded.soft_scale
        )
        teacher = self._teach(part, len(batch))
        terms = pair_losses(pairs, teacher, self.loss, batch.caption_ids, self.ranks.group)
        terms |= concept_losses(embedded.logits, part.targets, share * len(batch))
        total = weighted_sum(terms, self.loss)
        self.scaler.scale(total).backward()
        return {"loss": total, **terms}

    def _cached(self, batch: Prepared, size: int, share: float) -> dict[str, Tensor]:
        # A rank without pairs has one part too, of none.
        parts = [slice(first, min(first + size, len(batch))) for first in range(0, max(1, len(batch)), size)]
        leaves, teacher, states = self._first_pass(batch, parts)
        terms = pair_losses(leaves, teacher, self.loss, batch.caption_ids, self.ranks.group)
        total = torch.zeros((), device=self.ranks.device)
        if terms:
            total = weighted_sum(terms, self.loss)
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

    @torch.no_grad()
    def _first_pass(
        self, batch: Prepared, parts: list[slice]
    ) -> tuple[PairTensors, tuple[Tensor, Tensor] | None, list[Any]]:
        """Embed all parts without a graph; return what the losses take, and the random state before each part.

        Of a part only its embeddings stay: logits of thousands of concepts would outgrow them.
        """
        states: list[Any] = []
        sides: tuple[list[Tensor], list[Tensor]] = ([], [])
        taught: tuple[list[Tensor], list[Tensor]] = ([], [])
        with _still_statistics(self.student):
            for rows in parts:
                part, pairs = batch.part(rows), rows.stop - rows.start
                states.append(_random_state(self.ranks.device))
                embedded = self._embed(self.student, part, pairs, heads=False)
                sides[0].append(embedded.image)
                sides[1].append(embedded.text)
                if (teacher := self._teach(part, pairs)) is not None:
                    taught[0].append(teacher[0])
                    taught[1].append(teacher[1])
        leaves = PairTensors(
            image=torch.cat(sides[0]).requires_grad_(),
            text=torch.cat(sides[1]).requires_grad_(),
            scale=embedded.scale.requires_grad_(),
            soft_scale=None if embedded.soft_scale is None else embedded.soft_scale.requires_grad_(),
        )
        return leaves, (torch.cat(taught[0]), torch.cat(taught[1])) if taught[0] else None, states

    def _backward_part(
        self, part: Part, rows: slice, leaves: PairTensors, share: float, *, last: bool
    ) -> dict[str, Tensor]:
        """Embed a part with a graph and send its embeddings' gradient back; the scales' goes with the last part."""
        pairs = rows.stop - rows.start
        embedded = self._embed(self.wrapped, part, pairs)
        concept = concept_losses(embedded.logits, part.targets, share * pairs)
        given = [(embedded.image, _rows_of(leaves.image.grad, rows)), (embedded.text, _rows_of(leaves.text.grad, rows))]
        if last:
            given.append((embedded.scale, leaves.scale.grad))
            if embedded.soft_scale is not None and leaves.soft_scale is not None:
                given.append((embedded.soft_scale, leaves.soft_scale.grad))
        # Frozen towers take no gradient; a loss that is left out gives none.
        given = [(output, gradient) for output, gradient in given if output.requires_grad and gradient is not None]
        if concept:
            given.append((self.scaler.scale(weighted_sum(concept, self.loss)), None))
        if given:
            torch.autograd.backward([output for output, _ in given], [gradient for _, gradient in given])
        return {kind: term.detach() for kind, term in concept.items()}

    def _embed(self, module: Any, part: Part, pairs: int, **options: bool) -> Embedded:
        """Embed a part of so many pairs; rows beyond them are filler and are left out."""
        with autocast(self.ranks.device, self.precision):
            return module(part.pictures, part.texts, **options).first(pairs)

    @torch.no_grad()
    def _teach(self, part: Part, pairs: int) -> tuple[Tensor, Tensor] | None:
        if self.average is None or self.loss.soft_labels.weight == 0:
            return None
        embedded = self._embed(self.average.module, part, pairs, heads=False)
        return embedded.image, embedded.text

    def _accumulation(self, *, last: bool) -> Any:
        """DDP talks to the other ranks with the last part only."""
        return nullcontext() if last or self.wrapped is self.student else self.wrapped.no_sync()


def _rows_of(gradient: Tensor | None, rows: slice) -> Tensor | None:
    return None if gradient is None else gradient[rows]


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
