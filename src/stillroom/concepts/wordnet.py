"""First senses of words in WordNet, by NLTK, which has the files fetched apart: `python -m nltk.downloader wordnet`.

WordNet (Miller 1995) lists the senses of a word by how often they were met in texts whose words it had annotated.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from stillroom.errors import ConfigError, MissingDependencyError

# What decides a first sense; the digest of these files stands for the edition of WordNet.
FILES = ("index.noun", "data.noun", "index.adj", "data.adj")
# WordNet's part of speech for each kind of concept; "a" has the satellite adjectives too.
PART_OF_SPEECH = {"objects": "n", "attributes": "a"}
PURPOSE = "fold_synonyms"

FirstSense = Callable[[str], str | None]


def wordnet_digest() -> str:
    """Return a SHA-256 of the installed WordNet's nouns and adjectives: another edition folds other words.

    Raises:
        MissingDependencyError: NLTK is not installed.
        ConfigError: it finds no WordNet, or one without these files.
    """
    root = _find()
    digest = hashlib.sha256()
    with _readable(root):
        for name in FILES:
            with root.join(name).open() as file:
                digest.update(file.read())
    return digest.hexdigest()


def load_first_senses() -> dict[str, FirstSense]:
    """Return for each kind a function from a name to the id of its first sense, None if WordNet has no such name.

    The sense is the first that WordNet writes exactly so, in lower case: "china" is porcelain, not the country, and
    "cars" has none (names are lemmas already). A compound is looked up whole ("sports car" as sports_car).

    Raises:
        MissingDependencyError: NLTK is not installed.
        ConfigError: it finds no WordNet, or one that it cannot read.
    """
    root = _find()
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    with _readable(root), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has no other languages, which nobody asked for
        reader = WordNetCorpusReader(root, omw_reader=None)
    return {kind: _first_senses(reader, root, part) for kind, part in PART_OF_SPEECH.items()}


def _first_senses(reader: Any, root: Any, part_of_speech: str) -> FirstSense:
    @cache
    def first_sense(name: str) -> str | None:
        lemma = name.replace(" ", "_")
        with _readable(root):
            for synset in reader.synsets(lemma, part_of_speech):
                if lemma in synset.lemma_names():
                    return synset.name()
        return None

    return first_sense


@contextmanager
def _readable(root: Any) -> Iterator[None]:
    """Say in one line what is wrong with the files at `root`."""
    from nltk.corpus.reader.wordnet import WordNetError

    try:
        yield
    except (OSError, ValueError, LookupError, AssertionError, WordNetError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{PURPOSE}: WordNet at {root} cannot be read ({reason}); run 'python -m nltk.downloader wordnet' anew"
        ) from None


def _find() -> Any:
    """Return NLTK's pointer to the folder or archive of WordNet."""
    try:
        import nltk.data
    except ImportError:
        raise MissingDependencyError("nltk", "wordnet", PURPOSE) from None
    for place in ("corpora/wordnet", "corpora/wordnet.zip/wordnet/"):
        try:
            return nltk.data.find(place)
        except (LookupError, OSError):
            continue
    raise ConfigError(f"{PURPOSE} needs WordNet, and NLTK finds none: run 'python -m nltk.downloader wordnet' once")
