"""spaCy's token vectors for many short texts at once: the same numbers from less arithmetic.

A `Tok2Vec` of spaCy's small pipelines (MultiHashEmbed, then the convolutions of a MaxoutWindowEncoder) keeps texts
apart by rows of zeros, one a layer, which are computed on like words. Captions have few words, so most rows are such
rows, and the same words come again and again. Here a layer is computed once for each different window of three rows,
and only where a token's vector depends on it. The pipeline's own layers do the arithmetic: where a row of a matrix
product does not depend on the other rows, as with spaCy's BLIS, the vectors are the same bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spacy.language import Language
    from spacy.tokens import Doc
    from thinc.api import Model

Array = np.ndarray[Any, Any]

ROWS = 1024  # rows of a matrix product, so that its operands stay in the processor's cache


@dataclass(frozen=True, kw_only=True)
class WindowEncoder:
    """The parts of a `Tok2Vec` component: its token features, what mixes them, and one layer for every convolution."""

    component: Any
    features: list[int | str]
    embed: Model[Any, Any]
    mix: Model[Any, Any]
    layers: list[Model[Any, Any]]

    def annotate(self, docs: Sequence[Doc]) -> None:
        """Set `doc.tensor` of every `Doc`, float32 of shape (tokens, width), as the component would."""
        lengths = np.array([len(doc) for doc in docs])
        if not lengths.any():
            self.component.set_annotations(docs, self.component.predict(docs))
            return
        table, tokens = self._embedded([doc for doc in docs if len(doc)])
        ids, distance = _padded(tokens, lengths, len(self.layers), zero=len(table))
        table = np.vstack([table, np.zeros_like(table[:1])])
        for left, layer in zip(reversed(range(len(self.layers))), self.layers, strict=True):
            rows = np.flatnonzero(distance <= left)
            windows, inverse = _distinct(np.stack([ids[rows - 1], ids[rows], ids[rows + 1]], axis=1))
            table = _mixed(layer, table, windows)
            ids = np.zeros_like(ids)  # rows that nothing reads any more are any row
            ids[rows] = inverse
        vectors = table[ids[distance == 0]]
        self.component.set_annotations(docs, np.split(vectors, np.cumsum(lengths)[:-1]))

    def _embedded(self, docs: Sequence[Doc]) -> tuple[Array, Array]:
        """Vectors of different tokens, and for every token of all texts the number of its vector."""
        features = np.concatenate([doc.to_array(self.features) for doc in docs])
        distinct, tokens = _distinct(features)
        parts = (distinct[k : k + ROWS] for k in range(0, len(distinct), ROWS))
        return np.concatenate([self.mix.predict(self.embed.predict(part)) for part in parts]), tokens


def window_encoder(nlp: Language) -> WindowEncoder | None:
    """The pipeline's shared `Tok2Vec` in parts; None if it has none or one of another architecture."""
    for name, component in nlp.pipeline:
        if nlp.get_pipe_meta(name).factory == "tok2vec":
            return _taken_apart(component)
    return None


def _taken_apart(component: Any) -> WindowEncoder | None:
    try:
        embed, encode = component.model.get_ref("embed"), component.model.get_ref("encode")
        extract, _, hashes, mix, _ = embed.layers
        (stack,) = encode.layers
        layers = [residual.layers[0] for residual in stack.layers]
        plain = extract.name == "extract_features" and mix.name == "with_array(maxout>>layernorm>>dropout)"
        alike = all(layer.name == "expand_window>>maxout>>layernorm>>dropout" for layer in layers)
        residuals = all(residual.name.startswith("residual(") for residual in stack.layers)
        sizes = {layer.layers[0].attrs["window_size"] for layer in layers}
        columns = extract.attrs["columns"]
    except (AttributeError, IndexError, KeyError, ValueError):  # other layers
        return None
    if not (plain and alike and residuals and sizes == {1} and encode.attrs.get("pad") == len(layers)):
        return None
    return WindowEncoder(
        component=component,
        features=columns,
        embed=hashes.layers[0],
        mix=mix.layers[0],
        layers=[layer.layers[1] for layer in layers],
    )


def _distinct(rows: Array) -> tuple[Array, Array]:
    """The different rows of a matrix of integers, and for every row the number of its like."""
    whole = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    keys: list[Any] = whole.tolist()
    numbers: dict[Any, int] = {}
    inverse = np.fromiter((numbers.setdefault(row, len(numbers)) for row in keys), np.intp, len(whole))
    first = np.zeros(len(numbers), np.intp)
    first[inverse[::-1]] = np.arange(len(whole))[::-1]
    return rows[first], inverse


def _padded(tokens: Array, lengths: Array, pad: int, *, zero: int) -> tuple[Array, Array]:
    """Tokens of all texts in a row, with `pad` zeros around every text, and every row's distance to a token."""
    texts = np.repeat(np.arange(len(lengths)), lengths)
    places = np.arange(len(tokens)) + pad * (texts + 1)
    size = len(tokens) + pad * (len(lengths) + 1)
    ids = np.full(size, zero)
    ids[places] = tokens
    distance = np.full(size, pad)
    for step in reversed(range(pad)):
        distance[places - step] = np.minimum(distance[places - step], step)
        distance[places + step] = np.minimum(distance[places + step], step)
    return ids, distance


def _mixed(layer: Model[Any, Any], table: Array, windows: Array) -> Array:
    """A convolution with its shortcut: one row for every window of three rows of the table."""
    found = []
    for k in range(0, len(windows), ROWS):
        part = windows[k : k + ROWS]
        found.append(table[part[:, 1]] + layer.predict(table[part].reshape(len(part), -1)))
    return np.concatenate(found)
