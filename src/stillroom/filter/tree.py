"""A parsed caption as plain nodes, so that the rules may mend a parse and need no spaCy to be tested."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.filter.words import IE_NOUNS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from spacy.tokens import Doc, Token

# Universal Dependencies labels (most pipelines) to those of the English pipelines, which the rules read.
UNIVERSAL = {
    "root": "ROOT",
    "obj": "dobj",
    "iobj": "dative",
    "nsubj:pass": "nsubjpass",
    "aux:pass": "auxpass",
    "acl:relcl": "relcl",
    "flat": "compound",
    "flat:name": "compound",
    "flat:foreign": "compound",
}
SUBJECTS = ("nsubj", "nsubjpass")
NOUNS = ("NOUN", "PROPN")
MAX_CONJUNCTS = 16  # "a, b, c ...": longer lists are word salad, and subjects times objects must stay bounded
MAX_CLIMB = 8  # steps from a verb to the noun it belongs to

# What spaCy has of a token: the first five tell what the word is, the others its place in the sentence.
COLUMNS: list[int | str] = ["ORTH", "LEMMA", "POS", "TAG", "MORPH", "DEP", "HEAD", "SPACY", "SENT_START"]
MAX_WORDS = 50_000  # words remembered, so that memory stays bounded

_SIBILANTS = ("s", "x", "z", "h", "o")  # only after these does -es make a plural or third person
# One-syllable stems with a single vowel and consonant double it before -ing: "rid" would give "ridding", so
# "riding" is from "ride".
_SILENT_E = re.compile(r"(?:qu|[^aeiou])*[aeiou][^aeiouwxy]")


@dataclass(slots=True)
class Node:
    """One token: `head` is an index, the root's its own; `form` is a Penn tag, also for other tag sets."""

    i: int
    text: str
    word: str  # lower case
    lemma: str  # lower case
    pos: str
    form: str
    dep: str
    head: int
    space: bool  # white space follows
    starts: bool  # first token of a sentence
    kids: list[int] = field(default_factory=list)


class _Words(dict[tuple[Any, ...], tuple[str, str, str, str, str]]):
    """What a node says of its word alone, by the numbers that spaCy has for it; started anew when it is full."""

    def keep(self, key: tuple[Any, ...], token: Token, *, english: bool) -> tuple[str, str, str, str, str]:
        if len(self) >= MAX_WORDS:
            self.clear()
        form = token.tag_ if english else _penn(token)
        self[key] = facts = (token.text, token.text.lower(), _lemma(token, english=english), token.pos_, form)
        return facts


_words = _Words()


def read_tree(doc: Doc) -> list[Node]:
    """Copy a parsed `Doc` into nodes, one a token in order; a `Doc` that was not parsed gives none."""
    if not doc.has_annotation("DEP"):
        return []
    english = is_english(doc)
    deps: dict[int, str] = {}
    nodes: list[Node] = []
    # Token attributes one by one are most of the time that reading a caption takes.
    for i, row in enumerate(doc.to_array(COLUMNS).astype(np.int64).tolist()):
        key = (english, *row[:5])
        facts = _words.get(key) or _words.keep(key, doc[i], english=english)
        dep = deps.get(row[5])
        if dep is None:
            dep = doc[i].dep_
            dep = deps[row[5]] = UNIVERSAL.get(dep, dep)
        nodes.append(Node(i, *facts, dep, i + row[6], bool(row[7]), row[8] == 1))
    return link(nodes)


def is_english(doc: Doc) -> bool:
    """Whether the English rules apply; a `Doc` whose vocabulary names no language counts as English."""
    return doc.lang_ in ("en", "")


def link(nodes: list[Node]) -> list[Node]:
    """Fill in every node's `kids`, in order of position, from the heads; returns the same list."""
    for node in nodes:
        node.kids = []
    for node in nodes:
        if node.head != node.i:
            nodes[node.head].kids.append(node.i)
    return nodes


def _lemma(token: Token, *, english: bool) -> str:
    lemma, word = token.lemma_.lower(), token.text.lower()
    if not lemma or "_" in lemma:  # "comics" has the lemma "comic_strip"
        return word
    return _mended_lemma(word, lemma, token.tag_) if english else lemma


def _mended_lemma(word: str, lemma: str, tag: str) -> str:
    """Mend lemmas for which spaCy takes the first stem that is a word: "rid" of "rides", "cooky" of "cookies"."""
    match tag:
        case "VBG" if lemma == word[:-3] and _SILENT_E.fullmatch(lemma):
            return lemma + "e"
        case "VBN" | "VBD" if lemma == word[:-2] and word.endswith("ed") and _SILENT_E.fullmatch(lemma):
            return lemma + "e"
        case "VBZ" | "NNS" if lemma == word[:-2] and word.endswith("es") and not lemma.endswith(_SIBILANTS):
            return lemma + "e"
        case "NNS" if word.endswith("ies") and word[:-1] in IE_NOUNS:
            return word[:-1]
        case _:
            return lemma


def gerund_lemma(word: str) -> str:
    """The verb of an English -ing form, by spelling alone: "grazing", "running", "dancing"."""
    stem = word[:-3]
    if len(stem) > 2 and stem[-1] == stem[-2] and stem[-1] not in "lsze":
        return stem[:-1]
    silent = stem.endswith(("c", "v", "u")) or _SILENT_E.fullmatch(stem) or re.search(r"[^aeiourlw]l$", stem)
    return stem + "e" if silent else stem


def _penn(token: Token) -> str:
    """Penn tag of a verb or relative pronoun from its features; for other words the tag as it is."""
    if token.pos_ == "PRON" and "Rel" in token.morph.get("PronType", []):
        return "WDT"
    if token.pos_ not in ("VERB", "AUX"):
        return str(token.tag_)
    form, tense = token.morph.get("VerbForm", []), token.morph.get("Tense", [])
    if "Part" in form:
        return "VBG" if "Pres" in tense else "VBN"
    if "Ger" in form:
        return "VBG"
    if "Inf" in form:
        return "VB"
    return "VBD" if "Past" in tense else "VBZ"


def kids(nodes: list[Node], node: Node, *deps: str) -> list[Node]:
    """The children of `node` with one of these dependency labels, in order."""
    return [nodes[k] for k in node.kids if nodes[k].dep in deps]


def conjuncts(nodes: list[Node], node: Node) -> list[Node]:
    """`node` and what is coordinated with it, at most `MAX_CONJUNCTS`."""
    found = [node]
    for each in found:
        found.extend(kids(nodes, each, "conj"))
        if len(found) >= MAX_CONJUNCTS:
            break
    return found[:MAX_CONJUNCTS]


def sentences(nodes: list[Node]) -> Iterable[list[Node]]:
    """The nodes cut at sentence starts."""
    part: list[Node] = []
    for node in nodes:
        if node.starts and part:
            yield part
            part = []
        part.append(node)
    if part:
        yield part


def has_letters(node: Node) -> bool:
    """Whether the token holds a letter or digit of any script; emoji and punctuation do not."""
    return node.text.isalnum() or any(c.isalnum() for c in node.text)
