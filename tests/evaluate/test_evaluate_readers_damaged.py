"""Annotation files that are damaged or hostile: one line, and never a way out of the data set's folder."""

import builtins

import numpy as np
import pytest
from evaluate_miniatures import picture
from evaluate_official import OFFICIAL, put

from stillroom.errors import DataError, MissingDependencyError
from stillroom.evaluate.datasets import open_task
from stillroom.evaluate.readers import files
from stillroom.evaluate.readers.files import inside
from stillroom.evaluate.tasks import find_task


@pytest.mark.parametrize(
    "name", ["", " ", ".", "/etc/passwd", "../x", "a/../../x", "a\\..\\x", "C:/x", "a\0b", "a\nb", "\ud800", "x" * 300]
)
def test_names_that_leave_the_folder_are_refused(name):
    with pytest.raises(DataError, match="no path within"):
        inside(name, "list.txt:1")


def test_names_that_stay_inside_are_kept():
    assert inside("a/./b c/dé.jpg", "x") == "a/b c/dé.jpg"
    assert inside("..a/b..", "x") == "..a/b.."


# An annotation file of each format that names a picture outside, written over the miniature's own.
HOSTILE = {
    "dtd": ("labels/test1.txt", "../secret.jpg\n"),
    "food101": ("meta/test.txt", "red_cake/../../secret\n"),
    "mscoco_captions": (
        "dataset_coco.json",
        '{"images": [{"filepath": "..", "filename": "secret.jpg", "split": "test", "sentences": [{"raw": "x"}]}]}',
    ),
    "ln_coco": ("coco_val_localized_narratives.jsonl", '{"image_id": "../../secret", "caption": "x"}\n'),
    "winoground": (
        "examples.jsonl",
        '{"image_0": "../../secret", "image_1": "b", "caption_0": "x", "caption_1": "y"}\n',
    ),
    "hateful_memes": ("test_seen.jsonl", '{"img": "/secret.jpg", "label": 1}\n'),
    "voc2007_multilabel": ("VOCdevkit/VOC2007/ImageSets/Main/red_test.txt", "../../../../secret 1\n"),
    "openimages": (
        "test-annotations-human-imagelabels.csv",
        "ImageID,Source,LabelName,Confidence\n../../secret,v,/m/01,1\n",
    ),
    "snli_ve": (
        "snli_ve_test.jsonl",
        '{"Flikr30kID": "../../secret", "gold_label": "neutral", "sentence2": "x"}\n',
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_annotations_never_lead_out_of_the_folder(name, tmp_path):
    OFFICIAL[name](tmp_path)
    put(tmp_path / "secret.jpg", picture("red"))
    task = find_task(name)
    file, text = HOSTILE[name]
    put(tmp_path / task.path / file, text)
    with pytest.raises(DataError, match="no path within the data set's folder") as error:
        open_task(task, str(tmp_path))
    assert "\n" not in str(error.value)


DAMAGED = {
    "mscoco_captions": [
        ("dataset_coco.json", "{", "not valid JSON"),
        ("dataset_coco.json", "[]", "holds a list"),
        ("dataset_coco.json", "[" * 100000, "not valid JSON"),
        ("dataset_coco.json", '{"images": [3]}', "image 0 is no object"),
        ("dataset_coco.json", '{"images": [{"split": "test"}]}', "'filename' must be of type str"),
        ("dataset_coco.json", '{"images": []}', "no captions of this split"),
        ("dataset_coco.json", '{"images": [], "annotations": [1]}', "annotation 0 is no object"),
        (
            "dataset_coco.json",
            '{"images": [{"split": "test", "filename": "a.jpg", "sentences": [{"raw": "\\ud800"}]}]}',
            "half a surrogate pair",
        ),
    ],
    "winoground": [
        ("examples.jsonl", "{}\n", "'image_0' must be of type str, not None"),
        ("examples.jsonl", "\xff".encode("latin-1"), "not JSON lines in UTF-8"),
        ("examples.jsonl", "[]\n", "examples.jsonl:1 holds a list"),
    ],
    "hateful_memes": [
        ("test_seen.jsonl", '{"img": "img/01.png"}\n', "'label' must be 0 or 1"),
        ("test_seen.jsonl", '{"img": "img/01.png", "label": true}\n', "'label' must be 0 or 1"),
        ("test_seen.jsonl", "\n", "holds no pictures"),
        ("classnames.txt", "a\nb\nc\n", "3 class names; the data has 2 classes"),
    ],
    "voc2007_multilabel": [
        ("VOCdevkit/VOC2007/ImageSets/Main/red_test.txt", "000001 2\n", "red_test.txt:1: '000001 2' is not a picture")
    ],
    "openimages": [
        ("test-annotations-human-imagelabels.csv", "a,b\n", "has no column 'ImageID'"),
        ("test-annotations-human-imagelabels.csv", "ImageID,LabelName,Confidence\nx,/m/01\n", ":2 has 2 fields"),
        (
            "test-annotations-human-imagelabels.csv",
            "ImageID,LabelName,Confidence\nx,/m/01,yes\n",
            "Confidence is 'yes'",
        ),
        ("test-annotations-human-imagelabels.csv", "ImageID,LabelName,Confidence\n", "no positive label of the 3"),
        ("oidv6-class-descriptions.csv", "/m/01\n", "is not an id, a comma and a name"),
        ("oidv6-classes-trainable.txt", "/m/99\n", "'/m/99' is not in oidv6"),
    ],
    "vqav2": [
        ("v2_mscoco_val2014_annotations.json", '{"annotations": []}', "has no annotation in v2"),
        ("v2_mscoco_val2014_annotations.json", '{"annotations": [{"answers": []}]}', "annotation 0 has no answers"),
        ("v2_OpenEnded_mscoco_val2014_questions.json", '{"questions": []}', "holds no questions"),
    ],
    "snli_ve": [
        ("snli_ve_test.jsonl", '{"gold_label": "maybe"}\n', "allowed: entailment, neutral, contradiction"),
        ("snli_ve_test.jsonl", '{"gold_label": "neutral"}\n', "'Flikr30kID' must be of type str"),
    ],
    "food101": [
        ("meta/test.txt", "", "lists no pictures"),
        ("meta/test.txt", "red_cake/0\npurple_cake/1\n", "test.txt:2: class 'purple_cake' is not in meta/classes.txt"),
        ("meta/test.txt", b"\xff", "cannot be read as UTF-8"),
    ],
    "flowers": [
        ("imagelabels.mat", b"no matlab", "no Matlab file"),
        ("classnames.txt", "red\nblue\n", "2 class names; the data has 3 classes"),
    ],
    "cars": [("devkit/cars_meta.mat", b"", "no Matlab file")],
}


@pytest.mark.parametrize(
    ("name", "file", "text", "message"),
    [(name, *case) for name, cases in DAMAGED.items() for case in cases],
)
def test_a_damaged_annotation_file_is_one_line(name, file, text, message, tmp_path):
    OFFICIAL[name](tmp_path)
    task = find_task(name)
    put(tmp_path / task.path / file, text)
    with pytest.raises(DataError, match=message) as error:
        open_task(task, str(tmp_path))
    assert "\n" not in str(error.value)


def test_files_of_absurd_size_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_LIST_BYTES", 10)
    monkeypatch.setattr(files, "MAX_JSON_BYTES", 10)
    monkeypatch.setattr(files, "MAX_LINE_CHARACTERS", 10)
    for name in ("dtd", "mscoco_captions", "winoground"):
        OFFICIAL[name](tmp_path)
        with pytest.raises(DataError, match="at most 10 are read|longer than 10 characters"):
            open_task(find_task(name), str(tmp_path))


def test_matlab_files_with_labels_that_do_not_fit(tmp_path):
    from scipy.io import savemat

    OFFICIAL["flowers"](tmp_path)
    savemat(tmp_path / "flowers/setid.mat", {"tstid": np.array([5])})
    with pytest.raises(DataError, match="'tstid' must hold numbers from 1 to 4"):
        open_task(find_task("flowers"), str(tmp_path))
    savemat(tmp_path / "flowers/setid.mat", {"trnid": np.array([1])})
    with pytest.raises(DataError, match="has no 'tstid'"):
        open_task(find_task("flowers"), str(tmp_path))
    OFFICIAL["cars"](tmp_path)
    rows = np.array([("1.jpg",)], dtype=[("fname", "O")])  # the file of the challenge, without labels
    savemat(tmp_path / "cars/cars_test_annos_withlabels.mat", {"annotations": rows})
    with pytest.raises(DataError, match="take the file with labels"):
        open_task(find_task("cars"), str(tmp_path))


def test_scipy_is_asked_for_only_where_it_is_needed(tmp_path, monkeypatch):
    for name in ("flowers", "dtd"):
        OFFICIAL[name](tmp_path)
    imported = builtins.__import__

    def without_scipy(name, *rest, **more):
        if name.startswith("scipy"):
            raise ImportError(name)
        return imported(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_scipy)
    assert open_task(find_task("dtd"), str(tmp_path)).count() == 3
    with pytest.raises(MissingDependencyError, match="needs the package 'scipy'"):
        open_task(find_task("flowers"), str(tmp_path))
