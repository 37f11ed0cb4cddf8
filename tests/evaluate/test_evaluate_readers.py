"""Readers of official formats: what is read, and that damaged or hostile annotation files are one line."""

import json
import pickle

import pytest
from evaluate_miniatures import COLOURS, picture
from evaluate_official import IDS, OFFICIAL, RGB, pictures, put, put_json, put_lines

from stillroom.data.images import decode_image
from stillroom.errors import DataError
from stillroom.evaluate.datasets import open_task
from stillroom.evaluate.items import Item
from stillroom.evaluate.readers import class_folders, wordnet
from stillroom.evaluate.readers.captions import CaptionsJson
from stillroom.evaluate.readers.class_folders import ClassFolders
from stillroom.evaluate.readers.labels import Voc
from stillroom.evaluate.readers.list_file import ListFile
from stillroom.evaluate.readers.questions import most_frequent
from stillroom.evaluate.readers.wordnet import WordNetClasses, wordnet_classes
from stillroom.evaluate.tasks import find_task


@pytest.fixture
def official(tmp_path):
    """Write a task's miniature and open it."""

    def opened(name):
        OFFICIAL[name](tmp_path)
        return open_task(find_task(name), str(tmp_path))

    return opened


def _labelled(dataset):
    return [(item.name, dataset.classnames[item.label]) for item in dataset]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("birdsnap", {"images/Red_Bird/0.jpg": "Red Bird", "images/Green_Bird/1.jpg": "Green Bird"}),
        ("caltech101", {"101_ObjectCategories/red_thing/image_0001.jpg": "red thing"}),
        ("cars", {"cars_test/00001.jpg": "Red Coupe 2009", "cars_test/00002.jpg": "Green Sedan 2012"}),
        ("country211", {"test/AD/1.jpg": "green"}),
        ("dtd", {"images/blue/blue_0001.jpg": "blue"}),
        ("flowers", {"jpg/image_00002.jpg": "green", "jpg/image_00003.jpg": "blue", "jpg/image_00004.jpg": "red"}),
        ("food101", {"images/red_cake/0.jpg": "red cake"}),
        ("pets", {"images/Red_cat_12.jpg": "Red cat", "images/green_dog_3.jpg": "green dog"}),
        ("sun397", {"SUN397/r/red_room/outdoor/sun_a.jpg": "red room outdoor", "SUN397/b/blue/sun_c.jpg": "blue"}),
        ("ucf101", {"frames/ApplyRedMakeup/v_red_g01_c01.jpg": "apply red makeup"}),
        ("hateful_memes", {"img/01.png": "green", "img/02.png": "red"}),
    ],
)
def test_labels_and_names(official, name, expected):
    dataset = official(name)
    found = dict(_labelled(dataset))
    assert len(found) == dataset.count() == 3
    assert expected.items() <= found.items()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_in_its_binary_version(official, name):
    dataset = official(name)
    items = list(dataset)
    assert dataset.count() == 3
    assert [dataset.classnames[item.label] for item in items] == ["red", "blue", "green"]
    for item in items:
        assert decode_image(item.image).getpixel((31, 0)) == COLOURS[dataset.classnames[item.label]]


def test_stl10_runs_down_the_columns(official):
    first = decode_image(next(iter(official("stl10"))).image)
    assert first.size == (96, 96)
    assert (first.getpixel((50, 5)), first.getpixel((5, 50))) == (COLOURS["green"], COLOURS["red"])


def test_binary_files_that_do_not_fit(official, tmp_path):
    official("cifar10")
    base = tmp_path / "cifar10/cifar-10-batches-bin"
    whole = (base / "test_batch.bin").read_bytes()
    put(base / "test_batch.bin", whole[:-1])
    with pytest.raises(DataError, match="no whole number of pictures of 3,073 bytes"):
        open_task(find_task("cifar10"), str(tmp_path))
    put(base / "test_batch.bin", bytes([9]) + whole[1:])
    with pytest.raises(DataError, match="labels 1 to 9; .* names 3 classes"):
        open_task(find_task("cifar10"), str(tmp_path))
    OFFICIAL["stl10"](tmp_path)
    put(tmp_path / "stl10/stl10_binary/test_y.bin", bytes([1, 2]))
    with pytest.raises(DataError, match="2 labels for 3 pictures"):
        open_task(find_task("stl10"), str(tmp_path))


def test_pickles_are_never_read(tmp_path, monkeypatch):
    put(tmp_path / "cifar10/cifar-10-batches-py/test_batch", pickle.dumps({b"labels": [0]}))
    monkeypatch.setattr(pickle, "load", lambda *a, **k: pytest.fail("unpickled"))
    with pytest.raises(DataError, match="test_batch.bin is missing .*binary version"):
        open_task(find_task("cifar10"), str(tmp_path))


def test_several_labels_with_difficult_ones(official):
    dataset = official("voc2007_multilabel")
    assert dataset.classnames == ("blue", "green", "red")
    path = "VOCdevkit/VOC2007/JPEGImages/00000{}.jpg"
    assert dataset.positives == {path.format(0): (2,), path.format(1): (1,), path.format(2): (0,)}
    assert dataset.known == {path.format(0): (0, 1, 2), path.format(1): (0, 1, 2), path.format(2): (0, 2)}


def test_class_names_of_files_may_be_spelled_out(official, tmp_path):
    official("voc2007_multilabel")
    dataset = Voc(spelled={"red": "dark red"}).read(tmp_path / "voc2007_multilabel")
    assert dataset.classnames == ("blue", "green", "dark red")


def test_open_images_verified_labels(official, tmp_path):
    dataset = official("openimages")
    assert dataset.classnames == ("Green", "Red", "Blue, light")  # the order of the file of trainable classes
    names = [f"test/{n:016x}.jpg" for n in range(3)]
    assert dataset.positives == dict(zip(names, [(1,), (0,), (2,)], strict=True))
    assert dataset.known == dict(zip(names, [(0, 1), (0, 1, 2), (2,)], strict=True))
    whole = open_task(find_task("openimages_19958"), str(tmp_path))
    assert whole.classnames == ("Red", "Green", "Blue, light", "Grey")
    assert whole.known[names[2]] == (2, 3)


def test_captions(official):
    assert [item.captions for item in official("mscoco_captions")][0] == ("A red thing.", "red")
    assert [item.name for item in official("flickr30k")] == [f"flickr30k-images/{n}.jpg" for n in range(3)]
    narratives = list(official("ln_coco"))
    assert narratives[0].name == "val2017/000000000000.jpg"
    assert [len(item.captions) for item in narratives] == [2, 1, 1]


def test_cocos_own_captions(tmp_path):
    pictures(tmp_path / "val", {"a.jpg": "red", "b.jpg": "blue"})
    images = [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}, {"id": 9, "file_name": "c.jpg"}]
    captions = [{"image_id": 8, "caption": "blue"}, {"image_id": 7, "caption": "red"}, {"image_id": 7, "caption": "x"}]
    put_json(tmp_path / "c.json", {"images": images, "annotations": captions})
    dataset = CaptionsJson(annotations="c.json", pictures="val").read(tmp_path)
    assert [(item.name, item.captions) for item in dataset] == [("val/a.jpg", ("red", "x")), ("val/b.jpg", ("blue",))]
    put_json(tmp_path / "c.json", {"images": images, "annotations": [{"image_id": 5, "caption": "x"}]})
    with pytest.raises(DataError, match="image 5, which 'images' does not list"):
        CaptionsJson(annotations="c.json").read(tmp_path)


def test_winoground_pairs(official):
    dataset = official("winoground")
    assert dataset.examples[1] == ("images/ex_1_img_0.png", "images/ex_1_img_1.png")
    assert [item.captions for item in dataset][:2] == [("it is red",), ("it is green",)]


def test_questions(official, tmp_path):
    dataset = official("vqav2")
    assert dataset.count() == 3
    first, second = dataset.questions[:2]
    assert (first.text, first.choices) == ("what colour?", ("red", "green"))
    assert first.references == ("red",) * 8 + ("blue",) * 2
    assert second.choices == ("no",)
    put_lines(tmp_path / "mscoco_captions/answers.txt", ["yes", "blue", "yes"])
    shared = open_task(find_task("vqav2"), str(tmp_path))
    assert {question.choices for question in shared.questions} == {("yes", "blue")}
    entailment = official("snli_ve")
    assert entailment.templates == ("it is {a} that {q}",)
    assert [question.references for question in entailment.questions] == [("true",), ("possible",), ("false",)]
    assert entailment.count() == 2  # two pictures, three questions; the one without a gold label is left out


def test_candidates_are_the_most_frequent_answers_then_by_the_alphabet():
    truths = [("t", answer, ()) for answer in ("b", "c", "a", "c", "b", "d")] + [("u", "z", ())]
    assert most_frequent(truths, 3) == {"t": ("b", "c", "a"), "u": ("z",)}


def test_imagenet_by_wordnet_id(official, tmp_path, monkeypatch):
    monkeypatch.setattr(class_folders, "wordnet_classes", lambda which: WordNetClasses(ids=IDS, names=RGB))
    dataset = official("imagenet1k")
    assert _labelled(dataset) == [(f"val/{s}/v.JPEG", c) for s, c in zip(IDS, RGB, strict=True)]
    assert len(dataset.templates) == 80
    put_lines(tmp_path / "imagenet1k/LOC_synset_mapping.txt", [f"{s} x" for s in reversed(IDS)])
    with pytest.raises(DataError, match="line 1 differs from the order of the class names"):
        open_task(find_task("imagenet1k"), str(tmp_path))
    put_lines(tmp_path / "imagenet1k/LOC_synset_mapping.txt", IDS[:2])
    with pytest.raises(DataError, match="line 3 differs"):
        open_task(find_task("imagenet1k"), str(tmp_path))
    pictures(tmp_path / "imagenet1k/val", {"cats/1.jpg": "red"})
    with pytest.raises(DataError, match="'cats' is no WordNet id of imagenet1k"):
        ClassFolders(folder="val", wordnet="imagenet1k").read(tmp_path / "imagenet1k")


def test_the_lists_of_wordnet_ids():
    small, large = wordnet_classes("imagenet1k"), wordnet_classes("imagenet21k_1k")
    assert (len(small.ids), len(large.ids)) == (len(small.names), len(large.names)) == (1000, 22843)
    assert large.ids[-1000:] == small.ids
    assert large.names[0] == "organism|being"
    # The order of open_clip's names is that of the ids: most are a lemma of their id, hardly one of another id.
    lemmas = dict(line.split("\t") for line in wordnet._lines("imagenet_synset_to_lemma.txt"))
    of_id = [[lemma.strip().lower() for lemma in lemmas[synset].split(",")] for synset in small.ids]
    right = [name.lower() in own for name, own in zip(small.names, of_id, strict=True)]
    assert sum(right) == 816
    shifted = [name.lower() in own for name, own in zip(small.names[1:], of_id, strict=False)]
    assert sum(shifted) < 10


def test_a_class_in_both_lists_has_both_as_its_truth(tmp_path):
    twice = wordnet_classes("imagenet1k").ids[0]
    pictures(tmp_path, {f"{twice}/1.jpg": "red", "n00004475/1.jpg": "blue"})
    dataset = ClassFolders(wordnet="imagenet21k_1k").read(tmp_path)
    assert dataset.positives["n00004475/1.jpg"] == (0,)
    found = dataset.positives[f"{twice}/1.jpg"]
    assert len(found) == 2
    assert found[1] == 21843


def test_pictures_that_are_missing_or_no_files_are_faults(official, tmp_path):
    dataset = official("dtd")
    (tmp_path / "dtd/images/red/red_0001.jpg").unlink()
    (tmp_path / "dtd/images/red/red_0001.jpg").mkdir()
    found = list(dataset)
    assert [getattr(item, "reason", None) for item in found] == ["image_missing", None, None]


def test_the_fingerprint_of_a_list_follows_labels_order_and_content(official, tmp_path):
    prints = [official("dtd").fingerprint, official("dtd").fingerprint]
    put(tmp_path / "dtd/images/red/red_0001.jpg", picture("blue", kind="jpeg"))
    prints.append(open_task(find_task("dtd"), str(tmp_path)).fingerprint)
    listed = [f"{colour}/{colour}_0001.jpg" for colour in reversed(RGB)]
    put_lines(tmp_path / "dtd/labels/test1.txt", listed)
    prints.append(open_task(find_task("dtd"), str(tmp_path)).fingerprint)
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
    labels = [ListFile(file="l", classes=classes).read(_two(tmp_path, classes)) for classes in ("ab", "ba")]
    assert labels[0].picture_fingerprint != labels[1].picture_fingerprint


def _two(tmp_path, classes):
    pictures(tmp_path, {"a/1.jpg": "red", "b/1.jpg": "blue"})
    put_lines(tmp_path / classes, classes)
    put_lines(tmp_path / "l", ["a/1.jpg", "b/1.jpg"])
    return tmp_path


def test_questions_and_their_truth_are_part_of_the_fingerprint(official, tmp_path):
    first = official("vqav2")
    path = tmp_path / "mscoco_captions/v2_mscoco_val2014_annotations.json"
    value = json.loads(path.read_text())
    value["annotations"][0]["answers"][0]["answer"] = "pink"
    put_json(path, value)
    second = open_task(find_task("vqav2"), str(tmp_path))
    assert first.picture_fingerprint == second.picture_fingerprint  # so its pictures are not embedded again
    assert first.fingerprint != second.fingerprint


def test_items_in_the_root_have_plain_names():
    assert Item(shard="", key="a/b.jpg").name == "a/b.jpg"
    assert Item(shard="a", key="b.jpg").name == "a/b.jpg"
