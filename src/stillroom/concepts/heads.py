"""Two linear classifiers, for objects and for attributes, on the frozen teacher's features.

Source: DiHT trains them with soft-target cross-entropy and square-root up-sampling of rare concepts (recalled,
unverified); the schedule was not recovered and is our choice. Features are standardised for training and the
standardisation is folded into the weights, so that one learning rate suits every teacher.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.concepts.config import HeadConfig
from stillroom.errors import ConfigError

if TYPE_CHECKING:
    import torch

log = logging.getLogger("stillroom")
ROWS_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class ConceptLabels:
    """Which concepts of one vocabulary each picture's caption holds, as a compressed sparse row matrix.

    Attributes:
        indptr: (N + 1,) int64; picture i has `ids[indptr[i]:indptr[i + 1]]`.
        ids: concept ids, int32, distinct in a picture.
        classes: size of the vocabulary.
    """

    indptr: np.ndarray
    ids: np.ndarray
    classes: int

    def padded(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ids (n, L) int64 and mass (n, L) float32; a picture's concepts share 1, padding has 0."""
        lengths = self.indptr[rows + 1] - self.indptr[rows]
        places = np.arange(max(1, int(lengths.max(initial=0))))
        inside = places < lengths[:, None]
        flat = np.where(inside, self.indptr[rows][:, None] + places, 0)
        ids = np.where(inside, self.ids[flat], 0) if len(self.ids) else np.zeros(inside.shape, np.int32)
        mass = np.where(inside, 1.0 / np.maximum(lengths, 1)[:, None], 0.0)
        return ids.astype(np.int64), mass.astype(np.float32)

    def flat(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the concepts of n rows one behind the other, int32, and how many each row has, (n,) int64.

        Unlike `padded` it costs the same whether one row has many concepts or none has.
        """
        lengths = self.indptr[rows + 1] - self.indptr[rows]
        behind = np.cumsum(lengths)
        places = np.repeat(self.indptr[rows] - behind + lengths, lengths)
        places += np.arange(len(places))
        return self.ids[places], lengths

    def frequency(self, rows: np.ndarray) -> np.ndarray:
        """Return how many of the rows have each concept, (classes,) int64."""
        return np.bincount(self.flat(rows)[0], minlength=self.classes)


def make_labels(concepts: Sequence[Sequence[int]], classes: int) -> ConceptLabels:
    """Pack lists of concept ids."""
    indptr = np.concatenate([[0], np.cumsum([len(ids) for ids in concepts], dtype=np.int64)])
    ids = np.fromiter((i for row in concepts for i in row), np.int32, count=int(indptr[-1]))
    return ConceptLabels(indptr=indptr.astype(np.int64), ids=ids, classes=classes)


def join_labels(parts: Sequence[ConceptLabels]) -> ConceptLabels:
    """Put the pictures of at least one part, all of one vocabulary, one behind the other."""
    lengths = np.concatenate([np.diff(part.indptr) for part in parts])
    indptr = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=indptr[1:])
    ids = np.concatenate([part.ids for part in parts])
    return ConceptLabels(indptr=indptr, ids=ids, classes=parts[0].classes)


@dataclass(frozen=True, kw_only=True)
class LinearHead:
    """`logits = features @ weight.T + bias`: weight (C, D) and bias (C,), float32, for raw features."""

    weight: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return (N, C) float32 logits of (N, D) features of any float dtype."""
        return features.astype(np.float32) @ self.weight.T + self.bias


def soft_target_cross_entropy(logits: torch.Tensor, ids: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """Mean over rows of the cross-entropy with a sparse target.

    Args:
        logits: (N, C).
        ids: (N, L) int64, classes with mass.
        mass: (N, L), sums to 1 in a row; 0 is padding.
    """
    log_sum = logits.float().logsumexp(dim=1)
    return (log_sum - (logits.gather(1, ids).float() * mass).sum(dim=1)).mean()


def sampling_weights(labels: ConceptLabels, rows: np.ndarray, resampling: str) -> np.ndarray:
    """Return how often each picture is shown in one pass, on average; the weights of all rows sum to their number.

    "sqrt" weighs a picture by the inverse square root of the frequency of its rarest concept. With one concept a
    picture, a concept of frequency f is then shown in proportion to sqrt(f).

    Args:
        labels: of all pictures.
        rows: the training pictures, each with at least one concept.
        resampling: "sqrt", or "none" for equal weights.
    """
    if resampling == "none":
        return np.ones(len(rows))
    ids, lengths = labels.flat(rows)
    inverse_root = 1 / np.sqrt(np.maximum(np.bincount(ids, minlength=labels.classes), 1))
    wanted = np.maximum.reduceat(inverse_root[ids], np.cumsum(lengths) - lengths)
    return wanted * (len(rows) / wanted.sum())


def resampled_order(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw len(weights) indices in random order; with weights that sum to their number, i comes w_i times on average.

    It comes floor(w_i) or ceil(w_i) times. Systematic sampling: with equal weights it is a permutation.
    """
    total = len(weights)
    # Shuffled before, too: systematic sampling makes neighbours depend on each other.
    shuffled = rng.permutation(total)
    edges = np.cumsum(weights[shuffled])
    edges *= total / edges[-1]
    points = np.arange(total) + rng.random()
    drawn = np.searchsorted(edges, points, side="right").clip(max=total - 1)
    return shuffled[rng.permutation(drawn)]


def train_head(
    features: np.ndarray,
    labels: ConceptLabels,
    *,
    training: np.ndarray,
    held_out: np.ndarray,
    config: HeadConfig,
    seed: int,
    device: str = "cpu",
    bf16: bool = False,
    advance: Callable[[int, str], None] = lambda amount, note: None,
) -> tuple[LinearHead, dict[str, Any]]:
    """Fit one linear classifier, minibatched over stored features; stop early on the held-out part.

    Args:
        features: (N, D) float16, in memory or mapped.
        labels: of the same N pictures.
        training: rows to learn from, each with at least one concept.
        held_out: rows to stop by; may be empty, then all epochs are run and the last is kept.
        config: schedule.
        seed: of the order of pictures.
        device: torch device.
        bf16: multiply in bfloat16; weights and their updates stay in float32.
        advance: told the number of pictures after each step, and a note.

    Returns:
        the head, and a report: epochs, training and held-out loss by epoch, number of training pictures.

    Raises:
        ConfigError: a loss is not finite.
    """
    import torch

    mean, std = feature_statistics(features, training)
    rng = np.random.default_rng(seed)
    head = torch.nn.Linear(features.shape[1], labels.classes, device=device)
    # A convex problem: zero is as good a start as any, and needs no seed.
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    steps = -(-len(training) // config.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs * steps)
    weights = sampling_weights(labels, training, config.resampling)
    losses: list[dict[str, float]] = []
    best, best_loss, best_epoch = copy.deepcopy(head.state_dict()), float("inf"), 0
    centre, scale = torch.from_numpy(mean).to(device), torch.from_numpy(1 / std).to(device)

    def batch_loss(rows: np.ndarray) -> torch.Tensor:
        ids, mass = (torch.from_numpy(part).to(device) for part in labels.padded(rows))
        inputs = (torch.from_numpy(features[rows]).to(device).float() - centre) * scale
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            logits = head(inputs)
        return soft_target_cross_entropy(logits, ids, mass)

    for epoch in range(1, config.epochs + 1):
        total = 0.0
        order = training[resampled_order(weights, rng)]
        for start in range(0, len(order), config.batch_size):
            rows = np.sort(order[start : start + config.batch_size])
            optimizer.zero_grad()
            loss = batch_loss(rows)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += _finite(loss.item(), epoch, config) * len(rows)
            advance(len(rows), f"epoch {epoch}/{config.epochs}")
        losses.append({"training": total / len(training)})
        if len(held_out):
            with torch.inference_mode():
                parts = [held_out[i : i + ROWS_AT_ONCE] for i in range(0, len(held_out), ROWS_AT_ONCE)]
                sums = [_finite(batch_loss(part).item(), epoch, config) * len(part) for part in parts]
            losses[-1]["held_out"] = sum(sums) / len(held_out)
        current = losses[-1].get("held_out", -float(epoch))
        if current < best_loss:
            best, best_loss, best_epoch = copy.deepcopy(head.state_dict()), current, epoch
        elif epoch - best_epoch >= config.patience:
            break
    folded = _fold(best["weight"].cpu().numpy(), best["bias"].cpu().numpy(), mean, std)
    return folded, {"epochs": best_epoch, "losses": losses, "training_pictures": len(training)}


def _finite(loss: float, epoch: int, config: HeadConfig) -> float:
    """Return a loss, but a head that learned from one that is not finite would be nothing but zeros and NaN."""
    if math.isfinite(loss):
        return loss
    raise ConfigError(
        f"the loss of a head is {loss} in epoch {epoch}: lower heads.lr (it is {config.lr:g}); "
        "if that does not help, the features are not finite"
    )


def feature_statistics(features: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation by feature (D,) float32; a feature that never changes has deviation 1."""
    total = np.zeros(features.shape[1])
    squares = np.zeros(features.shape[1])
    for start in range(0, len(rows), ROWS_AT_ONCE):
        block = features[rows[start : start + ROWS_AT_ONCE]].astype(np.float64)
        total += block.sum(axis=0)
        squares += (block**2).sum(axis=0)
    mean = total / len(rows)
    std = np.sqrt(np.maximum(squares / len(rows) - mean**2, 0))
    return mean.astype(np.float32), np.where(std > 1e-6, std, 1).astype(np.float32)


def _fold(weight: np.ndarray, bias: np.ndarray, mean: np.ndarray, std: np.ndarray) -> LinearHead:
    raw = weight.astype(np.float64) / std
    return LinearHead(weight=raw.astype(np.float32), bias=(bias - raw @ mean).astype(np.float32))
