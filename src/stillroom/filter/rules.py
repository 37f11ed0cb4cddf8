"""Measurements of a pair to a verdict: which rules fail, in a fixed order. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stillroom.data.reasons import ADVICE
from stillroom.filter.config import NSFW_SCALE, FilterConfig

CAPTION_LENGTH = "caption_length"
WATERMARK = "watermark"
UNSAFE = "unsafe"
NSFW = "nsfw"
SIMILARITY = "similarity"
PICTURE_SIZE = "picture_size"
ASPECT_RATIO = "aspect_ratio"
LANGUAGE = "language"
COMPLEXITY = "complexity"
ACTION = "action"
TEXT = "text"
MODEL_SIMILARITY = "model_similarity"
NEAR_DUPLICATE = "near_duplicate"
CAPTION_FREQUENCY = "caption_frequency"


@dataclass(kw_only=True, slots=True)
class Measurements:
    """What is known of one pair; None is "not measured" and never fails a rule.

    Attributes:
        caption_chars: characters of the caption without white space around.
        pwatermark: LAION's estimate that the picture has a watermark, 0 to 1.
        punsafe: LAION's estimate that the picture is unsafe, 0 to 1.
        nsfw: LAION-400M's word for the same, one of `NSFW_SCALE`.
        similarity: the metadata's cosine of picture and caption, -1 to 1.
        picture_sides: the shorter and the longer side of the picture in pixels.
        language: ISO 639-1 code of the caption's language; None also where the detector is unsure.
        complexity: relations of the caption's best-connected object.
        actions: number of acting verbs.
        text_overlap: longest run of characters shared by caption and lettering, or a lower bound of it.
        model_similarity: cosine of picture and caption by a model, -1 to 1.
        near_duplicate_of: the earlier picture that this one repeats.
        identical_before: earlier pairs with this very caption among those that pass every other rule.
        faults: reasons of `stillroom.data.reasons` for which the pair cannot be used at all.
    """

    caption_chars: int | None = None
    pwatermark: float | None = None
    punsafe: float | None = None
    nsfw: str | None = None
    similarity: float | None = None
    picture_sides: tuple[int, int] | None = None
    language: str | None = None
    complexity: int | None = None
    actions: int | None = None
    text_overlap: int | None = None
    model_similarity: float | None = None
    near_duplicate_of: str | None = None
    identical_before: int | None = None
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Keep or drop, and why: `reasons` stand in the order of the rules, and are empty exactly if the pair is kept."""

    kept: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One reason to drop a pair.

    Attributes:
        reason: its name in every output.
        thresholds: the config fields that it reads; the rule is on if any of them is not None.
        fails: whether a pair fails, asked only if the rule is on.
    """

    reason: str
    thresholds: tuple[str, ...]
    fails: Callable[[Measurements, FilterConfig], bool]


def below(value: float | None, least: float | None) -> bool:
    """Whether a measured value is under a threshold that is on."""
    return value is not None and least is not None and value < least


def above(value: float | None, most: float | None) -> bool:
    """Whether a measured value is over a threshold that is on."""
    return value is not None and most is not None and value > most


def at_least(value: float | None, limit: float | None) -> bool:
    """Whether a measured value reaches a threshold that is on."""
    return value is not None and limit is not None and value >= limit


def _nsfw(measured: Measurements, config: FilterConfig) -> bool:
    if measured.nsfw is None or config.max_nsfw is None:
        return False
    return NSFW_SCALE.index(measured.nsfw) > NSFW_SCALE.index(config.max_nsfw)


def _picture_size(measured: Measurements, config: FilterConfig) -> bool:
    return measured.picture_sides is not None and below(measured.picture_sides[0], config.min_picture_side)


def _aspect_ratio(measured: Measurements, config: FilterConfig) -> bool:
    if measured.picture_sides is None or config.max_aspect_ratio is None:
        return False
    shorter, longer = measured.picture_sides
    return longer > config.max_aspect_ratio * shorter


# In the order of their cost, which is the order of the funnel: what is read off, what needs a parse, what needs the
# picture, what needs the whole set. Actions come before complexity, because the tagger alone settles most captions
# without one (`stillroom.filter.evidence`).
RULES: tuple[Rule, ...] = (
    Rule(
        reason=CAPTION_LENGTH,
        thresholds=("min_caption_chars", "max_caption_chars"),
        fails=lambda m, c: below(m.caption_chars, c.min_caption_chars) or above(m.caption_chars, c.max_caption_chars),
    ),
    Rule(
        reason=WATERMARK,
        thresholds=("max_pwatermark",),
        fails=lambda m, c: above(m.pwatermark, c.max_pwatermark),
    ),
    Rule(reason=UNSAFE, thresholds=("max_punsafe",), fails=lambda m, c: above(m.punsafe, c.max_punsafe)),
    Rule(reason=NSFW, thresholds=("max_nsfw",), fails=_nsfw),
    Rule(reason=SIMILARITY, thresholds=("min_similarity",), fails=lambda m, c: below(m.similarity, c.min_similarity)),
    Rule(reason=PICTURE_SIZE, thresholds=("min_picture_side",), fails=_picture_size),
    Rule(reason=ASPECT_RATIO, thresholds=("max_aspect_ratio",), fails=_aspect_ratio),
    Rule(
        reason=LANGUAGE,
        thresholds=("language",),
        fails=lambda m, c: m.language is not None and c.language is not None and m.language != c.language,
    ),
    Rule(reason=ACTION, thresholds=("min_actions",), fails=lambda m, c: below(m.actions, c.min_actions)),
    Rule(reason=COMPLEXITY, thresholds=("min_complexity",), fails=lambda m, c: below(m.complexity, c.min_complexity)),
    Rule(reason=TEXT, thresholds=("text_overlap",), fails=lambda m, c: at_least(m.text_overlap, c.text_overlap)),
    Rule(
        reason=MODEL_SIMILARITY,
        thresholds=("min_model_similarity",),
        fails=lambda m, c: below(m.model_similarity, c.min_model_similarity),
    ),
    Rule(
        reason=NEAR_DUPLICATE,
        thresholds=("near_duplicate_distance",),
        fails=lambda m, c: m.near_duplicate_of is not None and c.near_duplicate_distance is not None,
    ),
    Rule(
        reason=CAPTION_FREQUENCY,
        thresholds=("max_identical_captions",),
        fails=lambda m, c: at_least(m.identical_before, c.max_identical_captions),
    ),
)
REASONS: tuple[str, ...] = (*(rule.reason for rule in RULES), *ADVICE)


def rules_on(config: FilterConfig) -> tuple[Rule, ...]:
    """Return the rules that a config turns on, in order."""
    return tuple(rule for rule in RULES if any(getattr(config, name) is not None for name in rule.thresholds))


def decide(measured: Measurements, config: FilterConfig) -> Verdict:
    """Judge a pair by all that has been measured so far: faults first, then the rules in order."""
    failed = tuple(rule.reason for rule in rules_on(config) if rule.fails(measured, config))
    reasons = measured.faults + failed
    return Verdict(kept=not reasons, reasons=reasons)
