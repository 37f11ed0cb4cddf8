import numpy as np
import pytest
import torch
from PIL import Image

from stillroom.errors import DataError
from stillroom.filter import similarity
from stillroom.filter.similarity import PairScorer, cosines, pair_scorer
from stillroom.model.checkpoint import save_model_folder
from stillroom.model.load import load_model
from stillroom.model.towers import create_model, create_tokenizer

# open_clip's own text tower and byte-pair tokenizer, which come with the package.
CONFIG = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
        "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {},
}
CAPTIONS = ["a red square", "blue", "", "a red square", "one long caption " * 40, "#verano ☀ 2024"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    save_model_folder(folder, CONFIG, create_model(CONFIG).eval(), create_tokenizer(CONFIG))
    return folder


@pytest.fixture(scope="module")
def images():
    draw = np.random.default_rng(0)
    sides = [(40, 30), (32, 32), (7, 90), (64, 64), (1, 1), (200, 100)]
    return [Image.fromarray(draw.integers(0, 255, (high, wide, 3), dtype=np.uint8)) for wide, high in sides]


def plain(folder, image, caption):
    """The cosine of one pair by open_clip's own normalisation, in float64."""
    model, preprocess, tokenizer = load_model(str(folder))
    with torch.no_grad():
        one = model.double().encode_image(preprocess(image)[None].double(), normalize=True)
        other = model.encode_text(tokenizer([caption]), normalize=True)
    return float((one * other).sum())


def test_equals_one_pair_at_a_time(folder, images):
    found = pair_scorer(str(folder)).score(images, CAPTIONS)
    assert found == pytest.approx([plain(folder, *pair) for pair in zip(images, CAPTIONS, strict=True)], abs=6e-5)
    assert len(set(found)) == len(found)
    assert all(value == round(value, 4) for value in found)


def test_the_batch_does_not_show(folder, images):
    scorer = pair_scorer(str(folder))
    together = scorer.score(images, CAPTIONS)
    assert [scorer.score([image], [caption])[0] for image, caption in zip(images, CAPTIONS, strict=True)] == together
    assert scorer.score(images[::-1], CAPTIONS[::-1]) == together[::-1]
    assert scorer.score([], []) == []


def test_loads_once_and_learns_nothing(folder, images):
    scorer = pair_scorer(str(folder))
    assert pair_scorer(str(folder)) is scorer
    assert not scorer._model.training
    with torch.enable_grad():
        scorer.score(images[:1], CAPTIONS[:1])
    assert all(parameter.grad is None for parameter in scorer._model.parameters())


def test_cosines_by_hand():
    one = np.array([[3, 4], [1, 0], [1, 1], [2, 0], [1, 2]], np.float32)
    other = np.array([[4, 3], [0, 5], [-1, -1], [7, 0], [2, -1.0001]], np.float32)
    assert cosines(one, other) == [0.96, 0.0, -1.0, 1.0, 0.0]
    assert "-0.0" not in map(str, cosines(one, -other))


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_embeddings_without_a_direction_are_refused(bad):
    with pytest.raises(DataError, match="another similarity_model"):
        cosines(np.ones((2, 3), np.float32), np.array([[1, 1, 1], [bad, bad, bad]], np.float32))


def test_uneven_and_unknown(images):
    with pytest.raises(ValueError, match="2 pictures and 1 captions"):
        PairScorer(torch.nn.Identity(), None, None).score(images[:2], ["one"])
    with pytest.raises(DataError, match="no model 'no-such-model'"):
        similarity.pair_scorer("no-such-model")
