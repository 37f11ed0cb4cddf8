"""Which of a method's settings to keep, by validation pictures alone and by one rule for all methods.

Shapes: B draws, M validation pictures, C classes.

The rule is our choice: the lowest cross-entropy at the temperature that suits the setting best. A few validation
pictures a class count right and wrong too coarsely to tell neighbouring settings apart; cross-entropy also sees how
close it was. The temperature is fitted because accuracy does not depend on it: a setting should not win by the size of
its logits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stillroom.probe.baselines import Candidate

LARGEST_FACTOR = 64.0  # of logits brought to a mean square of 1: surer than any validation set can justify
HALVINGS = 12  # of the range of the factor's logarithm, 8.3: to 2e-3, which moves the cross-entropy by some 1e-6


def choose(candidates: list[Candidate], features: Tensor, labels: Tensor) -> list[int]:
    """Return the place of the best setting in each draw.

    Args:
        candidates: the fitted settings.
        features: (B, M, D) validation pictures.
        labels: (B, M) their classes.

    Returns:
        B places: lowest `tempered_loss`, ties by place. Without any validation picture: the first.
    """
    draws, pictures = labels.shape
    if not pictures:
        return [0] * draws
    losses = torch.stack([tempered_loss(candidate.logits(features), labels) for candidate in candidates])
    return [min(range(len(candidates)), key=lambda place: (float(losses[place, draw]), place)) for draw in range(draws)]


def tempered_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy at the best temperature, which any positive multiple of the logits leaves as it is.

    Args:
        logits: (B, M, C) float64.
        labels: (B, M) int64.

    Returns:
        (B,): the minimum over t in [1/64, 64] of the mean of CE(t logits / root mean square of the draw's logits),
        the logits first centred per picture. It is convex in t; the sign of its derivative halves the range.
    """
    logits = logits - logits.mean(-1, keepdim=True)
    logits = logits / logits.square().mean((1, 2), keepdim=True).sqrt().clamp_min(1e-300)
    own = logits.gather(-1, labels[..., None]).squeeze(-1)
    low = torch.full_like(own[:, 0], -math.log(LARGEST_FACTOR))
    high = -low
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        probs = torch.softmax(middle.exp()[:, None, None] * logits, -1)
        too_sure = ((probs * logits).sum(-1) - own).mean(1) > 0
        low, high = torch.where(too_sure, low, middle), torch.where(too_sure, middle, high)
    factor = ((low + high) / 2).exp()[:, None, None]
    return (torch.logsumexp(factor * logits, -1) - factor[..., 0] * own).mean(1)
