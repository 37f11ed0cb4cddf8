"""Few-shot curves that can be compared: the same draws, validation pictures and rule of choice for every method."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillroom.probe.baselines import Candidate, Shots, fit_method, fit_probe
from stillroom.probe.choice import choose
from stillroom.probe.config import Method, ProbeConfig
from stillroom.probe.draws import Draw, draw_shots
from stillroom.probe.inputs import check_features, check_labels, check_number, check_prompts
from stillroom.progress import track

log = logging.getLogger("stillroom")
Settings = list[dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """A method at a number of shots.

    Attributes:
        method: its name.
        shots: pictures per class; 0 for zero-shot.
        accuracy: mean over draws of the share of test pictures classified rightly.
        spread: sample standard deviation over draws; 0 for a single draw.
        difference: mean over draws of accuracy minus zero-shot accuracy on the same test pictures.
        difference_spread: sample standard deviation of that difference.
        accuracies: one per draw.
        settings: what was chosen in each draw.
        pictures: shots in all, over the classes.
        validation_pictures: pictures that chose the setting.
        short_classes: classes with fewer pictures than asked for.
    """

    method: str
    shots: int
    accuracy: float
    spread: float
    difference: float
    difference_spread: float
    accuracies: tuple[float, ...]
    settings: tuple[dict[str, float], ...]
    pictures: int
    validation_pictures: int
    short_classes: tuple[int, ...]


def few_shot_curve(
    features: Any,
    labels: Any,
    prompt_weights: Any,
    *,
    test_features: Any,
    test_labels: Any,
    shots: Sequence[int] | None = None,
    draws: int | None = None,
    seed: int | None = None,
    methods: Sequence[Method] | None = None,
    logit_scale: float = 1.0,
    config: ProbeConfig | None = None,
) -> list[dict[str, Any]]:
    """Accuracy against the number of shots, for every method.

    In each draw every method is fitted to the same shots with each of its settings, the setting that does best on the
    draw's validation pictures is kept (`choice.choose`), and that one classifier is scored on the test pictures.
    Nothing before that last step reads `test_labels`.

    Args:
        features: (P, D) unit rows, the pool of shots and validation pictures; NumPy array or tensor.
        labels: (P,) integers in [0, C); every class occurs.
        prompt_weights: (D, C), columns are classes.
        test_features: (T, D) unit rows, none of them in the pool.
        test_labels: (T,) integers in [0, C).
        shots: pictures per class, ascending; None, here and below: the config's.
        draws: independent draws.
        seed: of the draws.
        methods: names out of `METHODS`; zero-shot is always there.
        logit_scale: exp(model.logit_scale).
        config: grids, tolerance and what is not given above.

    Returns:
        One `CurvePoint` as a dictionary (fit for JSON) per method and number of shots; first zero-shot, with 0 shots.

    Raises:
        DataError: arrays that `fit_prompt_probe` would refuse.
        ConfigError: a number, method or grid out of range.
    """
    given = {"shots": shots, "draws": draws, "seed": seed, "methods": methods}
    config = replace(config or ProbeConfig(), **{k: _plain(v) for k, v in given.items() if v is not None})
    scale = check_number(logit_scale, "logit_scale", zero=False)
    prompts = check_prompts(prompt_weights)
    pool = check_features(features, dimensions=len(prompts))
    pool_labels = check_labels(labels, len(pool), prompts.shape[1], every_class=True)
    test = check_features(test_features, "test_features", dimensions=len(prompts))
    truth = check_labels(test_labels, len(test), prompts.shape[1], "test_labels", every_class=False)

    zero = float(_right(scale * (test @ prompts), truth).double().mean())
    points = [_point("zero_shot", 0, [zero] * config.draws, zero, [{}] * config.draws, [])]
    for number in track(config.shots, "few-shot curve", total=len(config.shots)):
        picked = [
            draw_shots(pool_labels.numpy(), prompts.shape[1], number, seed=config.seed, draw=draw)
            for draw in range(config.draws)
        ]
        shot = _stack(pool, pool_labels, [p.shots for p in picked])
        validation = _stack(pool, pool_labels, [p.validation for p in picked])
        batch = Shots(features=shot[0], labels=shot[1], prompt_weights=prompts, logit_scale=scale)
        uses_probe = {"prompt_probe", "interpolation"} & set(config.methods)
        probe = fit_probe(batch, config) if uses_probe else None
        for method in config.methods:
            if method != "zero_shot":
                candidates = fit_method(method, batch, config, probe=probe)
                chosen = choose(candidates, *validation)
                scores = _test(candidates, chosen, test, truth)
                points.append(_point(method, number, scores, zero, [candidates[c].setting for c in chosen], picked))
    return [asdict(point) for point in points]


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.argmax(-1) == labels


def _stack(features: Tensor, labels: Tensor, rows: list[NDArray[np.int64]]) -> tuple[Tensor, Tensor]:
    index = torch.as_tensor(np.stack(rows))
    return features[index], labels[index]


def _test(candidates: list[Candidate], chosen: list[int], test: Tensor, truth: Tensor) -> list[float]:
    """Accuracy per draw of its chosen setting; one setting at a time scores all draws, which bounds the memory."""
    scores = [0.0] * len(chosen)
    for place in sorted(set(chosen)):
        right = _right(candidates[place].logits(test[None]), truth).double().mean(1)
        for draw, own in enumerate(chosen):
            if own == place:
                scores[draw] = float(right[draw])
    return scores


def _point(
    method: str, shots: int, scores: list[float], zero: float, settings: Settings, draws: list[Draw]
) -> CurvePoint:
    accuracies = np.array(scores)
    differences = accuracies - zero
    several = len(scores) > 1
    return CurvePoint(
        method=method,
        shots=shots,
        accuracy=float(accuracies.mean()),
        spread=float(accuracies.std(ddof=1)) if several else 0.0,
        difference=float(differences.mean()),
        difference_spread=float(differences.std(ddof=1)) if several else 0.0,
        accuracies=tuple(scores),
        settings=tuple(settings),
        pictures=len(draws[0].shots) if draws else 0,
        validation_pictures=len(draws[0].validation) if draws else 0,
        short_classes=draws[0].short_classes if draws else (),
    )
