"""What the filter drops: presets, and every threshold by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from stillroom.data.config import DataConfig
from stillroom.errors import ConfigError
from stillroom.filter.language import LANGUAGES
from stillroom.parallel import BACKENDS

# `None` turns a rule off, and TOML has no null: there, "off" does. Until `__post_init__` has run a threshold can thus
# be a word, which `config_io` must let through; afterwards it is what the type checker is told.
if TYPE_CHECKING:
    Count = int | None
    Number = float | None
    Word = str | None
else:
    Count = Number = Word = Any

OFF = "off"
FROM_PRESET: Any = "preset"
NSFW_SCALE = ("unlikely", "unsure", "nsfw")  # LAION-400M's column NSFW, from harmless to not
MAX_HASH_DISTANCE = 8  # bits of 64: beyond it unlike pictures meet, and the search for pairs grows steeply

# Thresholds recalled from the paper and a reading note, unverified (docs/filter.md). A rule that a preset does not name
# is off.
PRESETS: Mapping[str, Mapping[str, int | float]] = MappingProxyType(
    {
        "diht": {
            "min_complexity": 1,
            "min_actions": 1,
            "text_overlap": 5,
            "max_pwatermark": 0.5,
            "max_punsafe": 0.5,
        },
        "complexity-only": {"min_complexity": 1},
        "off": {},
    }
)


class Kind(NamedTuple):
    """What a threshold may be: in words, and as a test; and the type that it is stored with."""

    words: str
    allows: Callable[[Any], bool]
    type: type = float


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _real(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


COUNT = Kind("a whole number, 0 or more", _whole, int)
SHARE = Kind("a number from 0 to 1", lambda value: _real(value) and 0 <= value <= 1)
COSINE = Kind("a number from -1 to 1", lambda value: _real(value) and -1 <= value <= 1)
THRESHOLDS: Mapping[str, Kind] = MappingProxyType(
    {
        "min_caption_chars": COUNT,
        "max_caption_chars": COUNT,
        "max_pwatermark": SHARE,
        "max_punsafe": SHARE,
        "max_nsfw": Kind(" or ".join(NSFW_SCALE[:2]), lambda value: value in NSFW_SCALE[:2], str),
        "min_similarity": COSINE,
        "min_picture_side": COUNT,
        "max_aspect_ratio": Kind("a number, 1 or more", lambda value: _real(value) and value >= 1),
        "language": Kind(f"one of {' '.join(LANGUAGES)}", LANGUAGES.__contains__, str),
        "min_complexity": COUNT,
        "min_actions": COUNT,
        "text_overlap": COUNT,
        "min_model_similarity": COSINE,
        "near_duplicate_distance": Kind(
            f"a whole number from 0 to {MAX_HASH_DISTANCE}",
            lambda value: _whole(value) and value <= MAX_HASH_DISTANCE,
            int,
        ),
        "max_identical_captions": COUNT,
    }
)
# Fields that say how the work is done, not what comes out; they are not part of a run's identity.
RUNTIME = ("workers", "backend", "strict", "pairs_per_shard")


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Options of `stillroom filter`. A threshold has a value, 0 meaning 0, or its rule is off: "off", in Python None.

    Thresholds that are not given come from the preset; once built, a config holds the resolved values.

    Attributes:
        preset: the thresholds to start from, see docs/filter.md; with "off" no rule is on but those you set.
        min_caption_chars: drop captions with fewer characters, white space around not counted.
        max_caption_chars: drop captions with more.
        max_pwatermark: drop pairs whose metadata have a larger `pwatermark` (LAION's probability of a watermark); pairs
            without the column stay, as with all rules on metadata.
        max_punsafe: the same for `punsafe` (LAION's probability that a picture is not safe for work).
        max_nsfw: "unlikely" drops pairs whose metadata say UNSURE or NSFW in `NSFW`, "unsure" those that say NSFW.
        min_similarity: drop pairs whose metadata have a smaller `similarity` (LAION's cosine of picture and caption).
        min_picture_side: drop pictures whose shorter side has fewer pixels.
        max_aspect_ratio: drop pictures whose longer side is more than so many times the shorter.
        language: drop captions that are surely in another language than this; needs `stillroom[language]`.
        min_complexity: drop captions in which no object has so many relations, its attributes among them.
        min_actions: drop captions with fewer verbs of action.
        text_overlap: drop pairs whose picture shows, as lettering, at least so many characters of the caption in a row.
        text_confidence: lettering read less surely than this (mean over characters) does not count.
        text_min_side: pictures with a shorter side of fewer pixels are not searched for lettering (our choice: a word
            drawn as wide as the picture is hardly ever read at 16 pixels, mostly at 32).
        text_side: longer side, in pixels, at which a picture is first searched for lettering; small pictures are
            searched at less (our choice, docs/filter.md).
        min_model_similarity: drop pairs whose picture and caption have a smaller cosine in `similarity_model`.
        similarity_model: the model for that, any name that `stillroom.load_model` takes: ViT-B-32/laion2b_s34b_b79k.
        near_duplicate_distance: drop a picture if its perceptual hash differs from an earlier one's in so many of 64
            bits, or fewer; needs `stillroom[duplicates]`.
        max_identical_captions: of the pairs with one caption that pass all else, keep the first so many.
        parser: the spaCy pipeline that parses captions; must be installed.
        measure_all: measure every rule that is on, also on pairs that have failed already; keeps the same pairs.
        decode_images: drop pairs whose picture cannot be decoded, also where no rule looks at it.
        workers: processes; 0 takes one a core.
        backend: processes of this machine, or Ray: the cluster at RAY_ADDRESS, or a Ray started here.
        strict: stop at the first pair or shard that cannot be used, instead of counting it.
        pairs_per_shard: pairs in each tar that `--write-shards` makes.
        data: how DATA is read.
    """

    preset: str = "diht"
    min_caption_chars: Count = FROM_PRESET
    max_caption_chars: Count = FROM_PRESET
    max_pwatermark: Number = FROM_PRESET
    max_punsafe: Number = FROM_PRESET
    max_nsfw: Word = FROM_PRESET
    min_similarity: Number = FROM_PRESET
    min_picture_side: Count = FROM_PRESET
    max_aspect_ratio: Number = FROM_PRESET
    language: Word = FROM_PRESET
    min_complexity: Count = FROM_PRESET
    min_actions: Count = FROM_PRESET
    text_overlap: Count = FROM_PRESET
    text_confidence: float = 0.8
    text_min_side: int = 16
    text_side: int = 640
    min_model_similarity: Number = FROM_PRESET
    similarity_model: str = ""
    near_duplicate_distance: Count = FROM_PRESET
    max_identical_captions: Count = FROM_PRESET
    parser: str = "en_core_web_sm"
    measure_all: bool = False
    decode_images: bool = True
    workers: int = 0
    backend: str = "local"
    strict: bool = False
    pairs_per_shard: int = 10_000
    data: DataConfig = field(default_factory=DataConfig)

    def __post_init__(self) -> None:
        for name, allowed in (("preset", tuple(PRESETS)), ("backend", BACKENDS)):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        for name, kind in THRESHOLDS.items():
            value = getattr(self, name)
            value = PRESETS[self.preset].get(name) if value == FROM_PRESET else None if value == OFF else value
            if value is not None and not kind.allows(value):
                raise ConfigError(f'{name} is {value!r}; it must be {kind.words}, or "{OFF}"')
            object.__setattr__(self, name, value if value is None else kind.type(value))
        if not 0 <= self.text_confidence <= 1:
            raise ConfigError(f"text_confidence is {self.text_confidence}; it must be from 0 to 1")
        for name, least in (("text_min_side", 0), ("text_side", 32), ("workers", 0), ("pairs_per_shard", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not self.parser:
            raise ConfigError("parser is empty; name an installed spaCy pipeline, e.g. en_core_web_sm")
        if self.min_model_similarity is not None and not self.similarity_model:
            raise ConfigError(
                "min_model_similarity is set and similarity_model is not; name a model, e.g. ViT-B-32/laion2b_s34b_b79k"
            )

    def identity(self) -> dict[str, Any]:
        """Return what decides the output, as plain values: all fields but the runtime's."""
        return {name: value for name, value in asdict(self).items() if name not in RUNTIME}
