"""Token vectors computed once a window, against the pipeline's own component."""

import numpy as np
import pytest
import spacy

from stillroom.filter.parser import load_parser
from stillroom.filter.tok2vec import window_encoder

TEXTS = ["", "cat", "a black cat", "a black cat on a black mat", "", "cat cat cat cat cat", "Two dogs, one cat.", "a a"]
TEXTS += [" ".join(f"word{i % k}" for i in range(k * 7)) for k in range(1, 12)]


def same_vectors(nlp, texts):
    component = nlp.get_pipe("tok2vec")
    theirs = list(component.pipe([nlp.make_doc(text) for text in texts], batch_size=4))
    ours = [nlp.make_doc(text) for text in texts]
    window_encoder(nlp).annotate(ours)
    for one, other in zip(ours, theirs, strict=True):
        assert one.tensor.dtype == other.tensor.dtype == np.float32
        assert one.tensor.shape == other.tensor.shape == (len(one), 96)
        np.testing.assert_allclose(one.tensor, other.tensor, rtol=0, atol=1e-5)


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[::-1], ["cat"], ["", ""], []], ids=len)
def test_vectors_are_those_of_the_component(texts):
    same_vectors(load_parser(), texts)


def test_products_in_pieces_give_the_same(monkeypatch):
    monkeypatch.setattr("stillroom.filter.tok2vec.ROWS", 3)
    same_vectors(load_parser(), TEXTS)


@pytest.mark.parametrize("depth", [2, 3, 6])
def test_any_depth(depth):
    nlp = spacy.blank("en")
    model = {"@architectures": "spacy.HashEmbedCNN.v2", "pretrained_vectors": None, "width": 96, "depth": depth}
    model |= {"embed_size": 300, "window_size": 1, "maxout_pieces": 3, "subword_features": True}
    nlp.add_pipe("tok2vec", config={"model": model})
    nlp.initialize()
    same_vectors(nlp, TEXTS)


def test_other_architectures_are_left_alone():
    assert window_encoder(spacy.blank("en")) is None
    mish = {"@architectures": "spacy.MishWindowEncoder.v2", "width": 32, "depth": 2, "window_size": 1}
    wide = {"@architectures": "spacy.MaxoutWindowEncoder.v2", "width": 32, "depth": 2, "window_size": 2}
    hashes = {"@architectures": "spacy.MultiHashEmbed.v2", "width": 32, "attrs": ["NORM", "SHAPE"], "rows": [50, 50]}
    characters = {"@architectures": "spacy.CharacterEmbed.v2", "width": 32, "rows": 50, "nM": 8, "nC": 4}
    maxout = {**wide, "window_size": 1, "maxout_pieces": 3}
    for embed, encode in [
        ({**hashes, "include_static_vectors": False}, mish),
        ({**hashes, "include_static_vectors": False}, {**wide, "maxout_pieces": 3}),
        ({**hashes, "include_static_vectors": True}, maxout),
        ({**characters, "include_static_vectors": False, "feature": "LOWER"}, maxout),
    ]:
        nlp = spacy.blank("en")
        model = {"@architectures": "spacy.Tok2Vec.v2", "embed": embed, "encode": encode}
        nlp.add_pipe("tok2vec", config={"model": model})
        assert window_encoder(nlp) is None
