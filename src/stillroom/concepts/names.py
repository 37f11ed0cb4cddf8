"""Names of concepts: how they are spelt, their shorter endings, and which of these a vocabulary has.

A name is words in lower case with single spaces. The parts of a hyphenated word count on their own too: "red t-shirt"
has three parts, at the places 0, 1 and 2.

An object's longest name, as it is stored, has `NOUN` instead of the space before its first noun: "white polar|bear".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Set

HYPHENS = ("-", "\u2010", "\u2011")
NOUN = "|"
_PART = re.compile(r"[^ |-]+")
_HYPHEN = re.compile("[" + "".join(HYPHENS[1:]) + "]")


def spelt(name: str) -> str:
    """Return a name as it is compared: lower case, single spaces, "-" for every hyphen, composed (NFC)."""
    return unicodedata.normalize("NFC", _HYPHEN.sub("-", " ".join(name.lower().split())))


def is_word(text: str) -> bool:
    """Whether a text is letters of any script, with their combining marks, which many scripts write vowels by."""
    return any(c.isalpha() for c in text) and all(c.isalpha() or unicodedata.category(c)[0] == "M" for c in text)


def name_parts(name: str) -> list[str]:
    """Return the words of a name, and of hyphenated words the parts."""
    return _PART.findall(name)


def placed_endings(name: str, stop: Set[str]) -> Iterator[tuple[int, str]]:
    """Yield the `endings` of a name, each with the place of its first part."""
    adjectives = len(name_parts(name.rpartition(NOUN)[0]))
    name = name.replace(NOUN, " ")
    parts = [match.span() for match in _PART.finditer(name)]
    while parts:
        word = name.rfind(" ", 0, parts[-1][1]) + 1
        if name[word : parts[-1][1]] in stop:
            parts = [part for part in parts if part[0] < word]
        elif name[slice(*parts[-1])] in stop:
            parts.pop()
        else:
            break
    if len(parts) <= adjectives:
        return
    end = parts[-1][1]
    last_word = name.rfind(" ", 0, end) + 1
    for place, (start, part_end) in enumerate(parts):
        if 0 < start < last_word and name[start - 1] == "-":
            continue
        ending = name[start:end]
        single = len(ending) == 1 and ending.isascii()
        if not single and stop.isdisjoint((name[start:part_end], ending.partition(" ")[0], ending)):
            yield place, ending


def endings(name: str, stop: Set[str]) -> list[str]:
    """Return a compound and what is left of it without its first words, longest first.

    "red fire truck" gives itself, "fire truck" and "truck"; a hyphenated last word also gives its endings: "toy
    teddy-bear" itself, "teddy-bear" and "bear". Stop words at the end are taken off before: with "icon" in `stop`,
    "fire truck icon" and "fire-truck-icon" lose it; if that leaves only adjectives ("flat|icon"), there is no ending.
    Endings that begin with a stop word, and single letters of the
    Latin alphabet, are left out.
    """
    return [ending for _, ending in placed_endings(name, stop)]


def resolve(names: Iterable[str], known: Collection[str], stop: Set[str]) -> list[str]:
    """Return for each name its longest ending that is known, without repeats; names without one are left out.

    So a compound is one concept where it is known ("fire truck"), and otherwise its head ("truck").
    """
    found = (next((ending for ending in endings(name, stop) if ending in known), None) for name in names)
    return list(dict.fromkeys(ending for ending in found if ending is not None))


def describes(name: str, place: int, known: Collection[str], stop: Set[str]) -> bool:
    """Whether the word at a place of a compound describes what the compound is resolved to, and is no part of it.

    In "city fire truck", if "fire truck" is known, "city" describes it, and "fire" is part of its name. A compound of
    which no ending is known has no name: all of its words describe.
    """
    start = next((start for start, ending in placed_endings(name, stop) if ending in known), None)
    return start is None or place < start
