"""What the probe is compared with; every method maps shots and a grid of settings to one classifier per setting.

Shapes: B draws, S settings, N shots, M pictures to classify, D dimensions, C classes. Pictures have length 1.
Papers are named where a method comes from one; the grids (`config.py`) are our choice.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from stillroom.probe.config import Method, ProbeConfig
from stillroom.probe.fit import GridFit, solve_grid

log = logging.getLogger("stillroom")
BASELINE_BIAS_RADIUS = 10.0  # the penalties leave the bias free; a wide ball keeps the solver's certificate


@dataclass(frozen=True, kw_only=True)
class Shots:
    """Features (B, N, D) and labels (B, N) of the draws, prompt weights (D, C) float64, and the model's logit scale."""

    features: Tensor
    labels: Tensor
    prompt_weights: Tensor
    logit_scale: float


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A fitted setting: `logits` maps pictures (B, M, D) to float64 (B, M, C), draw b by the classifier of draw b."""

    setting: dict[str, float]
    logits: Callable[[Tensor], Tensor]


def fit_method(method: Method, shots: Shots, config: ProbeConfig, *, probe: GridFit | None = None) -> list[Candidate]:
    """Fit every setting of a method's grid on every draw.

    Args:
        method: its name.
        shots: the draws.
        config: the grids, and the tolerance of the solver.
        probe: `fit_probe`'s result for these shots, if at hand.
    """
    match method:
        case "zero_shot":
            return [Candidate(setting={}, logits=lambda x: _zero_shot(shots, x))]
        case "prompt_probe":
            fit = probe if probe is not None else fit_probe(shots, config)
            near = _near_prompts(shots, config)
            return [
                _linear(near, fit, place, {"radius": radius, "bias_radius": bias_radius})
                for place, (radius, bias_radius) in enumerate(probe_grid(config))
            ]
        case "logistic_regression":
            return logistic_regression(shots, config)
        case "prompt_penalty":
            return prompt_penalty(shots, config)
        case "interpolation":
            return interpolation(shots, config, probe if probe is not None else fit_probe(shots, config))
        case "cache_model":
            return cache_model(shots, config)


def probe_grid(config: ProbeConfig) -> list[tuple[float, float]]:
    """All pairs of a relative radius and a bias radius."""
    return list(itertools.product(config.radii, config.bias_radii))


def fit_probe(shots: Shots, config: ProbeConfig) -> GridFit:
    """DiHT's probe on the whole grid; radii are in units of ||W0||_F, so that one grid serves any number of classes."""
    length = float(torch.linalg.matrix_norm(shots.prompt_weights))
    grid = probe_grid(config)
    near = _near_prompts(shots, config)
    return _solve(near, config, radii=[radius * length for radius, _ in grid], bias_radii=[bias for _, bias in grid])


def logistic_regression(shots: Shots, config: ProbeConfig) -> list[Candidate]:
    """Softmax regression from scratch with an L2 penalty: the usual linear probe, which knows nothing of the prompts.

    Mean cross-entropy + l2/2 ||W||_F^2 with logits x @ W + b; scikit-learn's C is 1 / (N l2).
    """
    blank = replace(shots, prompt_weights=torch.zeros_like(shots.prompt_weights), logit_scale=1.0)
    return _ridge(blank, config, config.l2_from_scratch)


def prompt_penalty(shots: Shots, config: ProbeConfig) -> list[Candidate]:
    """Penalise the distance from the prompts, which the probe bounds: mean cross-entropy + l2/2 ||W||_F^2 at W0 + W."""
    return _ridge(_near_prompts(shots, config), config, config.l2_to_prompts)


def interpolation(shots: Shots, config: ProbeConfig, probe: GridFit) -> list[Candidate]:
    """Weights W0 + m W between zero-shot (m = 0) and the probe's widest ball (m = 1), in the manner of WiSE-FT.

    Wortsman et al. 2022 (arXiv 2109.01903); there for all weights of a network, here for the classifier.
    """
    grid = probe_grid(config)
    widest = max(range(len(grid)), key=lambda place: grid[place])
    near = _near_prompts(shots, config)
    return [_linear(near, probe, widest, {"mix": mix}, mix=mix) for mix in config.mixes]


def cache_model(shots: Shots, config: ProbeConfig) -> list[Candidate]:
    """Zero-shot logits plus votes of the shots, weighted by similarity: training-free Tip-Adapter.

    Zhang et al. 2022 (arXiv 2111.03930): logits = s x @ W0 + a sum_i exp(-beta (1 - x . x_i)) onehot(y_i). Here a is
    the config's weight times the logit scale, so that it means the same for every model.
    """
    one_hot = torch.nn.functional.one_hot(shots.labels, shots.prompt_weights.shape[1]).double()

    def candidate(weight: float, sharpness: float) -> Candidate:
        def logits(x: Tensor) -> Tensor:
            affinity = torch.exp(sharpness * (x @ shots.features.mT - 1))
            return _zero_shot(shots, x) + weight * shots.logit_scale * (affinity @ one_hot)

        return Candidate(setting={"weight": weight, "sharpness": sharpness}, logits=logits)

    return [candidate(*pair) for pair in itertools.product(config.cache_weights, config.cache_sharpness)]


def _near_prompts(shots: Shots, config: ProbeConfig) -> Shots:
    """The same shots at the logit scale of the fit, which changes no zero-shot decision.

    The smaller it is, the further the optimum in a ball of given size in logits leaves the prompts behind, down to
    regression from scratch: a smaller one costs little where prompts are good and helps where they say nothing.
    """
    return replace(shots, logit_scale=config.scale_share * shots.logit_scale)


def _zero_shot(shots: Shots, x: Tensor) -> Tensor:
    return shots.logit_scale * (x @ shots.prompt_weights)


def _ridge(shots: Shots, config: ProbeConfig, penalties: tuple[float, ...]) -> list[Candidate]:
    number = len(penalties)
    fit = _solve(
        shots,
        config,
        radii=[float("inf")] * number,
        bias_radii=[BASELINE_BIAS_RADIUS] * number,
        ridges=list(penalties),
    )
    return [_linear(shots, fit, place, {"l2": penalty}) for place, penalty in enumerate(penalties)]


def _solve(shots: Shots, config: ProbeConfig, **grid: Any) -> GridFit:
    fit = solve_grid(
        shots.features,
        shots.labels,
        shots.prompt_weights,
        logit_scale=shots.logit_scale,
        max_iterations=config.max_iterations,
        tolerance=config.tolerance,
        dtype=torch.float32 if config.solver_precision == "fp32" else torch.float64,
        **grid,
    )
    left = int((~fit.converged).sum())
    if left:
        log.warning(
            "probe: %d of %d fits stopped at max_iterations %d, at most %.1e nats from the optimum",
            left,
            fit.converged.numel(),
            config.max_iterations,
            float(fit.gap.max()),
        )
    return fit


def _linear(shots: Shots, fit: GridFit, place: int, setting: dict[str, float], *, mix: float = 1.0) -> Candidate:
    def logits(x: Tensor) -> Tensor:
        weights = shots.prompt_weights + mix * fit.offsets[:, place].double()
        return shots.logit_scale * (x @ weights) + mix * fit.bias[:, place, None].double()

    return Candidate(setting=setting, logits=logits)
