"""Miniatures of the benchmarks' data sets in the formats they are published in: red, green and blue pictures.

`OFFICIAL[task](root)` writes the data of a task below `root`, in the folder that the task file names.
"""

import json

import numpy as np
from evaluate_miniatures import COLOURS, picture
from PIL import Image

RGB = tuple(COLOURS)
IDS = ("n00000001", "n00000002", "n00000003")


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def put_json(path, value):
    put(path, json.dumps(value))


def put_lines(path, rows):
    put(path, "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))


def pictures(folder, names, kind="jpeg"):
    for name, colour in names.items():
        put(folder / name, picture(colour, kind=kind))


def birdsnap(root):
    base = root / "birdsnap"
    names = {f"{colour.title()}_Bird/{number}.jpg": colour for number, colour in enumerate(RGB)}
    pictures(base / "images", names)
    put_lines(base / "test_images.txt", ["path", *names])


def _cifar(base, file, names, labels):
    planes = [np.repeat(np.array(COLOURS[colour], dtype=np.uint8), 32 * 32).tobytes() for colour in RGB]
    # 0 red, 2 blue, 1 green; CIFAR-100 puts the coarse label before the fine one
    put(base / file, b"".join(labels(label) + planes[label] for label in (0, 2, 1)))
    put_lines(base / names, RGB)


def cifar10(root):
    base = root / "cifar10/cifar-10-batches-bin"
    _cifar(base, "test_batch.bin", "batches.meta.txt", lambda label: bytes([label]))


def cifar100(root):
    base = root / "cifar100/cifar-100-binary"
    _cifar(base, "test.bin", "fine_label_names.txt", lambda label: bytes([19, label]))


def stl10(root):
    base = root / "stl10/stl10_binary"
    halves = Image.new("RGB", (96, 96), COLOURS["red"])
    halves.paste(COLOURS["green"], (0, 0, 96, 10))  # rows and columns must not be mixed up
    images = [halves, *(Image.new("RGB", (96, 96), COLOURS[colour]) for colour in RGB[1:])]
    put(base / "test_X.bin", b"".join(np.asarray(image).transpose(2, 1, 0).tobytes() for image in images))
    put(base / "test_y.bin", bytes([1, 2, 3]))
    put_lines(base / "class_names.txt", RGB)


def caltech101(root):
    base = root / "caltech101/101_ObjectCategories"
    pictures(base, {f"{colour}_thing/image_0001.jpg": colour for colour in RGB})
    pictures(base, {"BACKGROUND_Google/image_0001.jpg": "red"})


def country211(root):
    pictures(root / "country211/test", {"AD/1.jpg": "green", "AE/2.jpg": "red", "AF/3.jpg": "blue"})
    put_lines(root / "country211/classnames.txt", ["green", "red", "blue"])


def dtd(root):
    names = {f"{colour}/{colour}_0001.jpg": colour for colour in RGB}
    pictures(root / "dtd/images", names)
    put_lines(root / "dtd/labels/test1.txt", names)


def flowers(root):
    from scipy.io import savemat

    base = root / "flowers"
    pictures(base / "jpg", {f"image_{n:05d}.jpg": colour for n, colour in enumerate((*RGB, "red"), start=1)})
    base.mkdir(exist_ok=True)
    savemat(base / "imagelabels.mat", {"labels": np.array([[3, 1, 2, 3]], dtype=np.uint8)})
    savemat(base / "setid.mat", {"tstid": np.array([[2, 3, 4]], dtype=np.uint16), "trnid": np.array([[1]])})
    put_lines(base / "classnames.txt", ["green", "blue", "red"])


def food101(root):
    base = root / "food101"
    pictures(base / "images", {f"{colour}_cake/{n}.jpg": colour for n, colour in enumerate(RGB)})
    put_lines(base / "meta/classes.txt", [f"{colour}_cake" for colour in RGB])
    put_lines(base / "meta/test.txt", [f"{colour}_cake/{n}" for n, colour in enumerate(RGB)])


def imagenet1k(root):
    base = root / "imagenet1k"
    pictures(base / "val", {f"{synset}/v.JPEG": colour for synset, colour in zip(IDS, RGB, strict=True)})
    put_lines(base / "LOC_synset_mapping.txt", [f"{s} {c}, hue" for s, c in zip(IDS, RGB, strict=True)])


def imagenet21k_1k(root):
    pictures(root / "imagenet21k_1k", {f"{synset}/1.JPEG": colour for synset, colour in zip(IDS, RGB, strict=True)})


def pets(root):
    base = root / "pets"
    names = {"Red_cat_12": "red", "green_dog_3": "green", "Blue_cat_1": "blue"}
    pictures(base / "images", {f"{name}.jpg": colour for name, colour in names.items()})
    put_lines(base / "annotations/test.txt", ["Red_cat_12 3 1 1", "green_dog_3 2 2 1", "Blue_cat_1 1 1 2"])


def sun397(root):
    base = root / "sun397"
    names = {"r/red_room/outdoor/sun_a.jpg": "red", "g/green/sun_b.jpg": "green", "b/blue/sun_c.jpg": "blue"}
    pictures(base / "SUN397", names)
    put_lines(base / "ClassName.txt", ["/b/blue", "/g/green", "/r/red_room/outdoor"])
    put_lines(base / "Testing_01.txt", [f"/{name}" for name in names])


def cars(root):
    from scipy.io import savemat

    base = root / "cars"
    pictures(base / "cars_test", {f"{n:05d}.jpg": colour for n, colour in enumerate(RGB, start=1)})
    rows = np.array(
        [(1, 2, label, f"{n:05d}.jpg") for n, label in enumerate((2, 1, 3), start=1)],
        dtype=[("bbox_x1", "O"), ("bbox_y1", "O"), ("class", "O"), ("fname", "O")],
    )
    savemat(base / "cars_test_annos_withlabels.mat", {"annotations": rows})
    names = np.array(["Green Sedan 2012", "Red Coupe 2009", "Blue Van 1999"], dtype=object)
    (base / "devkit").mkdir()
    savemat(base / "devkit/cars_meta.mat", {"class_names": names})


def ucf101(root):
    base = root / "ucf101"
    names = {f"Apply{colour.title()}Makeup/v_{colour}_g01_c01": colour for colour in RGB}
    pictures(base / "frames", {f"{name}.jpg": colour for name, colour in names.items()})
    put_lines(base / "ucfTrainTestlist/testlist01.txt", [f"{name}.avi" for name in names])
    classes = [f"{number} {name.split('/')[0]}" for number, name in enumerate(names, start=1)]
    put_lines(base / "ucfTrainTestlist/classInd.txt", classes)


def hateful_memes(root):
    base = root / "hateful_memes"
    pictures(base, {"img/01.png": "green", "img/02.png": "red", "img/03.png": "green"}, kind="png")
    labels = {"img/01.png": 1, "img/02.png": 0, "img/03.png": 1}
    rows = [{"id": n, "img": img, "label": label, "text": "x"} for n, (img, label) in enumerate(labels.items())]
    put_lines(base / "test_seen.jsonl", rows)
    put_lines(base / "classnames.txt", ["red", "green"])


def voc2007_multilabel(root):
    base = root / "voc2007_multilabel/VOCdevkit/VOC2007"
    pictures(base / "JPEGImages", {f"00000{n}.jpg": colour for n, colour in enumerate(RGB)})
    lines = {"blue": (-1, -1, 1), "green": (-1, 1, 0), "red": (1, -1, -1)}
    for name, values in lines.items():
        put_lines(base / f"ImageSets/Main/{name}_test.txt", [f"00000{n} {v:2d}" for n, v in enumerate(values)])
    put_lines(base / "ImageSets/Main/test.txt", [f"00000{n}" for n in range(3)])


def openimages(root):
    base = root / "openimages"
    pictures(base / "test", {f"{n:016x}.jpg": colour for n, colour in enumerate(RGB)})
    names = ["/m/01,Red", "/m/02,Green", '/m/03,"Blue, light"', "/m/04,Grey"]
    put_lines(base / "oidv6-class-descriptions.csv", ["LabelName,DisplayName", *names])
    put_lines(base / "oidv6-classes-trainable.txt", ["/m/02", "/m/01", "/m/03"])
    rows = [(0, 1, 1), (0, 2, 0), (1, 2, 1), (1, 1, 0), (1, 3, 0), (2, 3, 1), (2, 4, 0), (7, 1, 0)]
    lines = [f"{image:016x},verification,/m/0{label},{confidence}" for image, label, confidence in rows]
    header = "ImageID,Source,LabelName,Confidence"
    put_lines(base / "test-annotations-human-imagelabels.csv", [header, *lines])


def mscoco_captions(root):
    base = root / "mscoco_captions"
    images = []
    for number, colour in enumerate(RGB):
        name = f"COCO_val2014_{number:012d}.jpg"
        pictures(base / "val2014", {name: colour})
        sentences = [{"raw": f"A {colour} thing.", "tokens": []}, {"raw": f" {colour} \n"}]
        images.append({"filepath": "val2014", "filename": name, "split": "test", "sentences": sentences})
    for split in ("train", "restval", "val"):
        images.append({"filepath": "val2014", "filename": "no.jpg", "split": split, "sentences": [{"raw": "x"}]})
    put_json(base / "dataset_coco.json", {"dataset": "coco", "images": images})


def flickr30k(root):
    base = root / "flickr30k"
    images = []
    for number, colour in enumerate(RGB):
        pictures(base / "flickr30k-images", {f"{number}.jpg": colour})
        images.append({"filename": f"{number}.jpg", "split": "test", "sentences": [{"raw": f"a {colour} dog"}]})
    put_json(base / "dataset_flickr30k.json", {"images": images})


def _narratives(colour, image_id):
    return {
        "dataset_id": "mscoco_val2017",
        "image_id": image_id,
        "annotator_id": 1,
        "caption": f"In this picture we can see {colour}.",
        "timed_caption": [],
        "traces": [[{"x": 0.1, "y": 0.2, "t": 0.0}]],
    }


def ln_coco(root):
    base = root / "mscoco_captions"
    pictures(base / "val2017", {f"{n:012d}.jpg": colour for n, colour in enumerate(RGB)})
    rows = [_narratives(colour, str(n)) for n, colour in enumerate(RGB)]
    put_lines(base / "coco_val_localized_narratives.jsonl", [*rows, _narratives("red", "0")])


def ln_flickr30k(root):
    base = root / "flickr30k"
    pictures(base / "flickr30k-images", {f"{n}.jpg": colour for n, colour in enumerate(RGB)})
    rows = [_narratives(colour, str(n)) for n, colour in enumerate(RGB)]
    put_lines(base / "flickr30k_test_localized_narratives.jsonl", rows)


def winoground(root):
    base = root / "winoground"
    rows = []
    for number, pair in enumerate([("red", "green"), ("blue", "red and green")]):
        names = [f"ex_{number}_img_{place}" for place in (0, 1)]
        for name, colour in zip(names, pair, strict=True):
            put(base / f"images/{name}.png", picture(COLOURS.get(colour, (255, 255, 0))))
        captions = {f"caption_{place}": f"it is {colour}" for place, colour in enumerate(pair)}
        rows.append({"id": number, "image_0": names[0], "image_1": names[1], **captions, "tag": "Noun"})
    put_lines(base / "examples.jsonl", rows)


def snli_ve(root):
    base = root / "flickr30k"
    pictures(base / "flickr30k-images", {"10.jpg": "red", "11.jpg": "green"})
    labels = [("10", "entailment"), ("10", "neutral"), ("11", "contradiction"), ("11", "-")]
    rows = [
        {"Flikr30kID": image, "gold_label": label, "sentence1": "x", "sentence2": "it is red", "pairID": f"{image}.jpg"}
        for image, label in labels
    ]
    put_lines(base / "snli_ve_test.jsonl", rows)


def vqav2(root):
    base = root / "mscoco_captions"
    pictures(base / "val2014", {f"COCO_val2014_{n:012d}.jpg": colour for n, colour in enumerate(RGB)})
    asked = [(0, "what colour", "red"), (0, "is it", "no"), (1, "what colour", "green"), (2, "what colour", "red")]
    questions = [{"question_id": n, "image_id": i, "question": f"{k}?"} for n, (i, k, _) in enumerate(asked)]
    annotations = [
        {
            "question_id": n,
            "image_id": image,
            "question_type": kind,
            "answer_type": "other",
            "multiple_choice_answer": answer,
            # Two of ten see blue in the blue picture, and most call it red.
            "answers": [{"answer": answer, "answer_id": k} for k in range(8)] + [{"answer": "blue"}] * 2,
        }
        for n, (image, kind, answer) in enumerate(asked)
    ]
    put_json(base / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": questions})
    put_json(base / "v2_mscoco_val2014_annotations.json", {"annotations": annotations})


OFFICIAL = {
    **{task.__name__: task for task in (birdsnap, caltech101, cars, cifar10, cifar100, country211, dtd, flickr30k)},
    **{task.__name__: task for task in (flowers, food101, hateful_memes, imagenet1k, imagenet21k_1k, ln_coco)},
    **{task.__name__: task for task in (ln_flickr30k, mscoco_captions, openimages, pets, snli_ve, stl10, sun397)},
    **{task.__name__: task for task in (ucf101, voc2007_multilabel, vqav2, winoground)},
    "openimages_19958": openimages,
}
