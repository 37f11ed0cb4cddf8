"""The language of a caption, offline: py3langid's naive Bayes model over byte n-grams, which is part of its wheel.

Captions are short and full of names, so a guess is returned only if it is sure; the thresholds are our choice, made on
the bundled English captions and on tests/filter/captions_by_language.toml (docs/filter.md has the rates).
"""

from __future__ import annotations

import functools
from importlib.util import find_spec
from typing import Any

from stillroom.errors import MissingDependencyError

# The languages that are told apart, ISO 639-1. The model knows 139, but every relative that is added (Galician to
# Portuguese, Danish to Swedish) takes certainty from a short caption; a caption in one that is not here counts as its
# nearest relative, or as unsure. First those that share their script, then those with one of their own.
LANGUAGES = (
    *("ar", "cs", "de", "en", "es", "fa", "fi", "fr", "hi", "hu", "id", "it", "nl", "pl", "pt", "ro", "ru", "sv"),
    *("tr", "uk", "vi", "zh"),
    *("am", "bn", "el", "gu", "he", "hy", "ja", "ka", "km", "kn", "ko", "lo", "ml", "my", "or", "pa", "si", "ta", "te"),
    "th",
)
NO_LANGUAGE = "zxx"  # the model's class for numbers, markup and file names

# Least probability of the best language. One or two words in Latin letters are mostly names and labels.
SURE = 0.75
SURE_OF_FEW_WORDS = 0.9
SURE_OF_OTHER_SCRIPTS = 0.5
FEW_WORDS = 2
LEAST_LETTERS = 3  # in Latin script
# A caption's language shows in its beginning; what a 1 MB caption says after that is not worth the time.
LONGEST = 1000


def caption_language(caption: str) -> str | None:
    """Return the language of a caption, one of `LANGUAGES`, or None where that is not sure.

    Not sure are captions without letters or with hardly any, close calls between two languages, and most names,
    brands, labels and file names. A caption in two languages counts as one of them or as unsure.

    Raises:
        MissingDependencyError: the extra `language` is not installed.
    """
    text = caption[:LONGEST]
    letters = [c for c in text if c.isalpha()]
    latin = sum(map(_is_latin, letters))
    mostly_latin = 2 * latin >= len(letters)
    if not letters or (mostly_latin and latin < LEAST_LETTERS):
        return None
    language, probability = _identifier().classify(text)
    if language == NO_LANGUAGE:
        return None
    least = SURE_OF_OTHER_SCRIPTS
    if mostly_latin:
        words = sum(any(map(str.isalpha, word)) for word in text.split())
        least = SURE if words > FEW_WORDS else SURE_OF_FEW_WORDS
    return language if probability >= least else None


def require_language_detector() -> None:
    """Raise `MissingDependencyError` if the package that `caption_language` needs is not installed; loads nothing."""
    if find_spec("py3langid") is None:
        raise MissingDependencyError("py3langid", "language", "the language rule (--set language=off turns it off)")


@functools.lru_cache(maxsize=1)
def _identifier() -> Any:
    """Load the model, once per process."""
    require_language_detector()
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages([*LANGUAGES, NO_LANGUAGE])
    return identifier


def _is_latin(letter: str) -> bool:
    """Whether a letter is in the blocks of Latin script that languages of today use."""
    return letter < "\u0250" or "\u1e00" <= letter < "\u1f00"
