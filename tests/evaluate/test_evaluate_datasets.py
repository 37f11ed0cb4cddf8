"""Test sets on disk: CLIP_benchmark's webdataset layout and image folders, whole and damaged."""

import gzip
import shutil

import pytest
import webdataset
from evaluate_miniatures import picture, write_dataset, write_tar

from stillroom.errors import DataError
from stillroom.evaluate.datasets import open_dataset
from stillroom.evaluate.items import DEFAULT_TEMPLATES, Item
from stillroom.records import Fault


def test_classification_layout(colour_classes):
    dataset = open_dataset(colour_classes)
    items = list(dataset)
    assert dataset.kind == "classification"
    assert dataset.classnames == ("green", "red", "blue")
    assert dataset.templates == ("a photo of {c}.", "{c}")
    assert dataset.count() == 6
    assert [item.label for item in items] == [1, 0, 2, 2, 1, 0]
    assert [item.name for item in items] == [f"{i // 4}/s{i:07d}" for i in range(6)]
    assert items[0].image == picture("red")
    assert list(dataset) == items  # a second pass reads again


def test_retrieval_layout(colour_captions):
    dataset = open_dataset(colour_captions)
    assert dataset.kind == "retrieval"
    assert [item.captions for item in dataset] == [("red", "a red thing"), ("green",), ("the blue one",)]


def test_what_clip_benchmark_writes_is_read(tmp_path):
    # its builder writes shards with webdataset.ShardWriter, an integer label under "cls", keys s0000000 and on
    folder = tmp_path / "set" / "test"
    folder.mkdir(parents=True)
    pattern = str(folder / "%d.tar")
    with webdataset.ShardWriter(pattern, maxcount=2, maxsize=10**9, verbose=0) as sink:
        for index in range(5):
            sink.write({"__key__": f"s{index:07d}", "webp": picture("red", kind="webp"), "cls": index % 2})
    (folder / "nshards.txt").write_text("3\n")
    (tmp_path / "set" / "classnames.txt").write_text("one\ntwo\n")
    dataset = open_dataset(tmp_path / "set")
    assert [item.label for item in dataset] == [0, 1, 0, 1, 0]
    assert dataset.templates == DEFAULT_TEMPLATES
    ours = [(item.key, item.label) for item in dataset]
    theirs = webdataset.WebDataset([str(path) for path in dataset.source.shards], shardshuffle=False).to_tuple(
        "__key__", "cls"
    )
    assert ours == [(key, int(label)) for key, label in theirs]


def test_padded_names_gzip_and_every_picture_format(tmp_path):
    kinds = ["jpg", "jpeg", "png", "webp"]
    names = {"jpg": "jpeg", "JPG": "jpeg"}
    shards = [[(f"k.{kind}", picture("blue", kind=names.get(kind, kind))), ("k.cls", b" 0\n")] for kind in kinds]
    root = write_dataset(tmp_path / "set", shards, classnames=["blue"])
    for number in range(len(kinds)):
        (root / f"test/{number}.tar").rename(root / f"test/{number:05d}.tar")
    last = root / "test/00003.tar"
    last.write_bytes(gzip.compress(last.read_bytes()))
    dataset = open_dataset(root)
    assert [item.label for item in dataset] == [0, 0, 0, 0]
    assert len({item.name for item in dataset}) == 4  # one key, four shards
    assert dataset.count() == 4


def test_another_split(tmp_path):
    root = write_dataset(tmp_path / "set", [[("a.png", b"x"), ("a.cls", b"0")]], classnames=["a"], split="train")
    assert len(list(open_dataset(root, split="train"))) == 1
    with pytest.raises(DataError, match="no data set"):
        open_dataset(root)


def test_samples_that_cannot_be_used_are_faults(tmp_path):
    good = picture("red")
    members = [
        *[("a.png", good), ("a.cls", b"0")],
        *[("b.png", good), ("b.cls", b"cat")],
        *[("c.png", good), ("c.json", b"{}")],
        ("d.cls", b"0"),
        *[("a.png", good), ("a.cls", b"0")],
        *[("../../e.png", good), ("../../e.cls", b"0")],
    ]
    found = list(open_dataset(write_dataset(tmp_path / "set", [members], classnames=["x"])))
    assert [item.key for item in found if isinstance(item, Item)] == ["a", "../../e"]
    faults = [(item.key, item.reason) for item in found if isinstance(item, Fault)]
    expected = [("b", "label_unreadable"), ("c", "label_missing"), ("d", "image_missing"), ("a", "duplicate_key")]
    assert faults == expected
    assert not (tmp_path.parent / "e.png").exists()


def test_captions_that_cannot_be_used_are_faults(tmp_path):
    good = picture("red")
    texts = {"a": b"\n \n", "b": b"\xff\xfe", "c": None, "d": b" one \n\ntwo"}
    members = []
    for key, text in texts.items():
        members += [(f"{key}.png", good), *([(f"{key}.txt", text)] if text is not None else [])]
    found = list(open_dataset(write_dataset(tmp_path / "set", [members], kind="retrieval")))
    assert [getattr(item, "reason", None) for item in found] == [
        "caption_empty",
        "caption_not_utf8",
        "caption_missing",
        None,
    ]
    assert found[-1].captions == ("one", "two")


def test_image_folder(tmp_path):
    for folder, colour in (("sea_green", "green"), ("red", "red"), (".cache", "red"), ("empty", None)):
        (tmp_path / folder).mkdir()
        if colour:
            (tmp_path / folder / "1.png").write_bytes(picture(colour))
            (tmp_path / folder / "notes.txt").write_text("not a picture")
    dataset = open_dataset(tmp_path)
    assert dataset.classnames == ("red", "sea green")
    assert [(item.name, item.label) for item in dataset] == [("red/1.png", 0), ("sea_green/1.png", 1)]
    assert dataset.count() == 2
    (tmp_path / "classnames.txt").write_text("crimson\nteal\n")
    assert open_dataset(tmp_path).classnames == ("crimson", "teal")
    (tmp_path / "classnames.txt").write_text("crimson\n")
    with pytest.raises(DataError, match="1 lines for 2 class folders"):
        open_dataset(tmp_path)


def test_fingerprint_follows_the_content(colour_classes, tmp_path):
    before = open_dataset(colour_classes).fingerprint
    copy = shutil.copytree(colour_classes, tmp_path / "elsewhere" / "colours")
    assert open_dataset(copy).fingerprint == before
    (copy / "classnames.txt").write_text("green\nred\nnavy\n")
    renamed = open_dataset(copy).fingerprint
    assert renamed != before
    data = bytearray((copy / "test/1.tar").read_bytes())
    data[700] ^= 1
    (copy / "test/1.tar").write_bytes(bytes(data))
    assert open_dataset(copy).fingerprint not in (before, renamed)


# What is done to one file of a good set: its new content, or None to delete it; and what is said about it.
DAMAGE = {
    "test/nshards.txt is gone": (None, "no test/nshards.txt"),
    "test/nshards.txt is a word": (lambda old: b"two\n", "holds 'two'"),
    "test/1.tar is gone": (None, "1.tar is missing"),
    "dataset_type.txt is unknown": (lambda old: b"video\n", "allowed: classification, retrieval"),
    "dataset_type.txt is not UTF-8": (lambda old: b"\xff\n", "not UTF-8"),
    "classnames.txt is gone": (None, "one class name per line"),
    "classnames.txt has a gap": (lambda old: b"green\n\nblue\n", "line 2 is empty"),
    "classnames.txt is too short": (lambda old: b"green\nred\n", "label 2; classnames.txt has 2 lines"),
    "zeroshot_classification_templates.txt has no class": (lambda old: b"a photo\n", "no {c}"),
    "test/0.tar is cut in a picture": (lambda old: old[:560], "0.tar is cut off"),
    "test/0.tar is cut in a header": (lambda old: old[: 512 * 2 + 100], "0.tar is cut off"),
    "test/0.tar is cut between members": (lambda old: old[: 512 * 4], "0.tar is cut off"),
    "test/0.tar is garbage": (lambda old: b"no tar at all" * 100, "0.tar is cut off or is no tar"),
    "test/0.tar is empty": (lambda old: b"", "0.tar is cut off or is no tar"),
    "test/0.tar is a cut gzip": (lambda old: gzip.compress(old)[:-40], "0.tar is cut off or is no tar"),
    "test/0.tar is a damaged gzip": (lambda old: gzip.compress(old)[:30] + bytes(300), "0.tar is cut off or is no tar"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_set_is_one_line(colour_classes, what):
    file, (damage, message) = colour_classes / what.split()[0], DAMAGE[what]
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=message) as error:
        list(open_dataset(colour_classes))
    assert "\n" not in str(error.value)
    if "tar" in what and "gone" not in what:
        with pytest.raises(DataError, match=message):
            open_dataset(colour_classes).count()


def test_neither_layout(tmp_path):
    with pytest.raises(DataError, match="no data set at"):
        open_dataset(tmp_path / "nothing")
    with pytest.raises(DataError, match="neither"):
        open_dataset(tmp_path)
    write_tar(tmp_path / "0.tar", [("a.png", b"x")])
    with pytest.raises(DataError, match="number of tars"):
        open_dataset(tmp_path)


def test_one_folder_of_pictures_is_no_classification(tmp_path, encode):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(encode())
    with pytest.raises(DataError, match=r"has one folder of pictures, 'images', and to tell classes apart takes two$"):
        open_dataset(tmp_path)
    (tmp_path / "pairs.tsv").write_text("filepath\ttitle\nimages/a.png\ta ball\n")
    with pytest.raises(DataError, match=r"takes two; for the pairs in pairs.tsv give .*pairs.tsv$"):
        open_dataset(tmp_path)
