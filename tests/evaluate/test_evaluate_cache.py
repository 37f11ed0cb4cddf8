"""Cached embeddings: what is written is read, byte for byte the same, and keys follow what matters."""

import logging
import zipfile

import numpy as np
import torch
from evaluate_miniatures import ColourModel, colour_transform

from stillroom.evaluate import cache
from stillroom.evaluate.embed import ImageEmbeddings
from stillroom.records import Fault


def _embeddings():
    return ImageEmbeddings(
        vectors=np.random.default_rng(0).random((3, 4), dtype=np.float32),
        names=("0/a", "0/b", "1/ü"),
        labels=(2, 0, 1),
        captions=(("one", "two\u2028"), ("",), ("三",)),
        faults=(Fault(shard="0", key="z", reason="image_empty", detail="the picture has no bytes"),),
    )


def test_round_trip(tmp_path):
    first, second = tmp_path / "a.npz", tmp_path / "sub" / "b.npz"
    for path in (first, second):
        cache.save_images(path, _embeddings())
    found, expected = cache.load_images(first), _embeddings()
    assert (found.vectors == expected.vectors).all()
    assert (found.names, found.labels, found.captions, found.faults) == (
        expected.names,
        expected.labels,
        expected.captions,
        expected.faults,
    )
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}  # no time of day
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a.npz"]
    cache.save_array(first, expected.vectors)
    assert (cache.load_array(first) == expected.vectors).all()


def test_absent_and_damaged_files(tmp_path, caplog):
    path = tmp_path / "a.npz"
    assert cache.load_images(path) is None
    cache.save_images(path, _embeddings())
    whole = path.read_bytes()
    with caplog.at_level(logging.WARNING):
        for data in (whole[:-30], whole[: len(whole) // 2], b"", b"PK\x05\x06" + bytes(18)):
            path.write_bytes(data)
            assert cache.load_images(path) is None
    assert caplog.text.count("computed again") == 4


def test_a_folder_that_cannot_be_written_is_said_once_and_costs_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    with caplog.at_level(logging.WARNING):
        for name in ("a.npz", "b.npz"):
            assert cache.load_array(tmp_path / "file" / name) is None
            cache.save_array(tmp_path / "file" / name, np.ones((1, 2), dtype=np.float32))
    assert caplog.text.count("embeddings are not kept") == 1
    assert "cannot be read" not in caplog.text


def test_pickles_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, vectors=np.array([{"a": 1}], dtype=object), meta=np.zeros(2, np.uint8))
    assert cache.load_array(path) is None


def _model(act=torch.nn.GELU, seed=0, heads=2):
    torch.manual_seed(seed)
    attention = torch.nn.MultiheadAttention(4, heads)
    return torch.nn.Sequential(torch.nn.Linear(4, 4), act(), attention, torch.nn.BatchNorm1d(4))


def test_model_fingerprint_follows_weights_and_settings():
    same = cache.model_fingerprint(_model())
    assert cache.model_fingerprint(_model()) == same
    assert cache.model_fingerprint(_model().eval()) == same
    changed = _model()
    with torch.no_grad():
        changed[0].bias[1] += 1e-7
    buffer = _model()
    buffer[3].running_mean += 1
    others = [_model(seed=1), _model(act=torch.nn.ReLU), _model(heads=1), _model().double(), changed, buffer]
    keys = {cache.model_fingerprint(model) for model in others}
    assert same not in keys
    assert len(keys) == len(others)


def test_transform_fingerprint_follows_what_it_does():
    def brighter(image):
        return colour_transform(image) + 0.1

    def make(scale):
        return lambda image: colour_transform(image) * scale

    keys = [cache.transform_fingerprint(t) for t in (colour_transform, brighter, make(1), make(2))]
    assert len(set(keys)) == 4
    assert cache.transform_fingerprint(make(2)) == keys[3]  # another object at another address, the same function


def test_tokenizer_fingerprint():
    def first(texts):
        return torch.tensor([[len(text)] for text in texts])

    def second(texts):
        return torch.tensor([[len(text) + 1] for text in texts])

    keys = [cache.tokenizer_fingerprint(t) for t in (first, second)]
    assert keys[0] != keys[1]
    assert cache.key_of("a", "bc") != cache.key_of("ab", "c")
    assert cache.model_fingerprint(ColourModel())


def test_models_that_share_a_text_tower_share_its_key():
    import open_clip

    vision = {"image_size": 32, "layers": 1, "width": 16, "patch_size": 16, "head_width": 8}
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    one, two = (open_clip.CustomTextCLIP(embed_dim=8, vision_cfg=vision, text_cfg=text) for _ in range(2))
    two.text.load_state_dict(one.text.state_dict())
    (image, words), (other_image, other_words) = map(cache.tower_fingerprints, (one, two))
    assert image != other_image
    assert words == other_words
    with torch.no_grad():
        two.text.ln_final.bias += 1
    assert cache.tower_fingerprints(two)[1] != words
    classic = open_clip.CLIP(embed_dim=8, vision_cfg=vision, text_cfg=text)
    before = cache.tower_fingerprints(classic)
    with torch.no_grad():
        classic.token_embedding.weight += 1
    after = cache.tower_fingerprints(classic)
    assert before[0] == after[0]
    assert before[1] != after[1]
    plain = ColourModel()
    assert cache.tower_fingerprints(plain) == (cache.model_fingerprint(plain),) * 2
