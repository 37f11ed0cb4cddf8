"""What a tagger's output proves before anything is parsed: that no verb can act in a caption.

Every action is read off a node that is a VERB once the parse is mended (`clauses.read_clauses`), and it names another
node. In an English pipeline a token can become a VERB in three ways only:

- The attribute ruler says VERB. Its patterns name the tags or the words of which it does; what else they ask, of the
  parse say, can only make it say so less often.
- `repair._name_modals` makes VERBs of AUX tokens, but not of those with the tag of another word class or of a modal.
- `repair._wake_gerund` makes VERBs of some -ing words that are tagged as nouns, behind a noun (or behind a modal, which
  `_name_modals` may take for a noun).

A caption without such a token, or of a single token, has thus no action, whatever the parser makes of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stillroom.filter.repair import NO_VERB_FORMS, may_wake

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spacy.language import Language
    from spacy.tokens import Doc

# Other components may set tags or parts of speech in ways that are not looked at here.
BEFORE_PARSER = frozenset({"tok2vec", "transformer", "curated_transformer", "tagger"})
UNDERSTOOD = BEFORE_PARSER | {"parser", "attribute_ruler", "lemmatizer", "trainable_lemmatizer"}
MAX_KNOWN = 50_000  # words remembered, so that memory stays bounded
ACTS, WAKES, WAKER = 1, 2, 4


@dataclass(frozen=True, kw_only=True)
class VerbEvidence:
    """Tags and words (in lower case) without which a pipeline's tokens are not taken for verbs."""

    tags: frozenset[str]
    words: frozenset[str]
    known: dict[tuple[int, int], int] = field(default_factory=dict, compare=False, repr=False)

    def lacks_verbs(self, doc: Doc) -> bool:
        """Whether no action can be read off the `Doc`, which has been tagged but need not have been parsed."""
        if len(doc) <= 1:  # asks nothing of the tags: such a `Doc` need not even be tagged
            return True
        before = 0
        for i, key in enumerate(map(tuple, doc.to_array(["ORTH", "TAG"]).tolist())):
            kind = self.known.get(key)
            if kind is None:
                if len(self.known) >= MAX_KNOWN:
                    self.known.clear()
                kind = self.known[key] = self._kind(doc[i].text.lower(), doc[i].tag_)
            if kind & ACTS or (kind & WAKES and before & WAKER and i >= 2):
                return False
            before = kind
        return True

    def _kind(self, word: str, tag: str) -> int:
        acts = ACTS if tag in self.tags or word in self.words else 0
        wakes = WAKES if tag in ("NN", "MD") and may_wake(word) else 0
        return acts | wakes | (WAKER if tag in ("NN", "NNS", "MD") else 0)


def verb_evidence(nlp: Language) -> VerbEvidence | None:
    """What the pipeline needs to see to take a token for a verb; None if that cannot be told from tags and words."""
    factories = [nlp.get_pipe_meta(name).factory for name in nlp.pipe_names]
    if nlp.vocab.lang != "en" or not set(factories) <= UNDERSTOOD or factories.count("tagger") != 1:
        return None
    parser = factories.index("parser")
    if not {"tagger"} <= set(factories[:parser]) <= BEFORE_PARSER:
        return None
    tagger: Any = nlp.get_pipe(nlp.pipe_names[factories.index("tagger")])
    tags = {label for label in tagger.labels if label not in NO_VERB_FORMS and label != "MD"}
    words: set[str] = set()
    for name, factory in zip(nlp.pipe_names, factories, strict=True):
        ruler: Any = nlp.get_pipe(name)
        for rule in ruler.patterns if factory == "attribute_ruler" else []:
            if not _understood(rule, tags, words):
                return None
    return VerbEvidence(tags=frozenset(tags), words=frozenset(words))


def _understood(rule: Mapping[str, Any], tags: set[str], words: set[str]) -> bool:
    """Add the tags or words of which a rule of the attribute ruler makes verbs; False if it may be of any."""
    if rule["attrs"].get("TAG", "_SP") != "_SP":
        return False
    if rule["attrs"].get("POS", "X") != "VERB":
        return isinstance(rule["attrs"].get("POS", "X"), str)
    for pattern in rule["patterns"]:
        if any("OP" in token for token in pattern):  # the index then tells no token
            return False
        token = pattern[rule["index"]]
        for attribute, names in (("TAG", tags), ("LOWER", words)):
            allowed = token.get(attribute)
            if isinstance(allowed, str):
                allowed = {"IN": [allowed]}
            if isinstance(allowed, dict) and set(allowed) == {"IN"}:
                names.update(allowed["IN"])
                break
        else:
            return False
    return True
