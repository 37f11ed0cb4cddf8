"""ImageNet's classes by WordNet id, from lists that open_clip and timm carry: no download, no guessing of an order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class WordNetClasses:
    """Ids and names of the classes, in order; `names` may hold synonyms joined by "|"."""

    ids: tuple[str, ...]
    names: tuple[str, ...]


@cache
def wordnet_classes(which: Literal["imagenet1k", "imagenet21k_1k"]) -> WordNetClasses:
    """Return ImageNet's 1,000 classes, or the 21,843 of the whole ImageNet followed by these 1,000.

    The 1,000 have open_clip's names (those of CLIP); the 21,843 have WordNet's lemmas as synonyms. An id that is in
    both lists is two classes with one truth. timm's list of the 1,000 ids is in the order of open_clip's names.
    """
    from open_clip import IMAGENET_CLASSNAMES

    ids, names = _lines("imagenet_synsets.txt"), tuple(IMAGENET_CLASSNAMES)
    if which == "imagenet21k_1k":
        lemmas = dict(line.split("\t", 1) for line in _lines("imagenet_synset_to_lemma.txt"))
        whole = _lines("imagenet21k_goog_synsets.txt")
        ids = (*whole, *ids)
        names = (*("|".join(lemma.strip() for lemma in lemmas[synset].split(",")) for synset in whole), *names)
    return WordNetClasses(ids=ids, names=names)


def _lines(name: str) -> tuple[str, ...]:
    text = (files("timm.data") / "_info" / name).read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line)
