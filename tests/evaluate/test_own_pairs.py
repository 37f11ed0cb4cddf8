"""Pairs of one's own as a task: every form of DATA, recalls worked out by hand, and each mistake in one line."""

import logging
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluate_miniatures import picture, write_dataset

import stillroom
from stillroom.cli import main
from stillroom.data.config import DataConfig
from stillroom.errors import ConfigError, DataError
from stillroom.evaluate import run as stage
from stillroom.evaluate.config import EvaluateConfig
from stillroom.evaluate.datasets import open_task
from stillroom.evaluate.during_training import make_scorer
from stillroom.evaluate.items import Item
from stillroom.evaluate.own_pairs import open_pairs, pairs_name
from stillroom.evaluate.tasks import find_task, find_tasks
from stillroom.records import Fault
from stillroom.train.config import EvaluationConfig

YELLOW = (255, 255, 0)
# The yellow picture is called red: with it, both directions go wrong in ways that can be counted (see the first test).
ROWS = [("red.png", "red"), ("green.png", "green"), ("blue.png", "blue"), ("yellow.png", "red")]


@pytest.fixture
def pictures(tmp_path):
    for colour in ("red", "green", "blue"):
        (tmp_path / f"{colour}.png").write_bytes(picture(colour))
    (tmp_path / "yellow.png").write_bytes(picture(YELLOW))
    return tmp_path


@pytest.fixture
def load_colours(monkeypatch, colour_model):
    monkeypatch.setattr(stillroom, "load_model", lambda name: colour_model)
    return colour_model[0]


def write_table(path, rows, columns=("filepath", "title")):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(row) + "\n" for row in [columns, *rows]), encoding="utf-8")
    return path


def tar_members(pairs):
    return [
        (f"{index:04d}.{extension}", data)
        for index, (colour, text) in enumerate(pairs)
        for extension, data in (("png", picture(colour)), ("txt", text.encode()))
    ]


def evaluate(tmp_path, *tasks, **options):
    return stage.run("colours", EvaluateConfig(tasks=tuple(map(str, tasks)), **options), tmp_path / "out")


def test_recalls_worked_out_by_hand(load_colours, pictures):
    table = write_table(pictures / "pairs.tsv", ROWS)
    [result] = evaluate(pictures, table)
    # Text to image: yellow's "red" finds the red picture first; the other three texts find their own.
    assert result["metrics"]["image_retrieval_recall@1"] == 3 / 4
    # Image to text: for red and yellow the other's "red" ties with their own, which counts against the model.
    assert result["metrics"]["text_retrieval_recall@1"] == 2 / 4
    assert all(result["metrics"][f"{way}_retrieval_recall@5"] == 1 for way in ("image", "text"))
    about = result["stillroom"]
    assert (result["dataset"], result["task"], about["n"], about["texts"]) == ("pairs", "zeroshot_retrieval", 4, 4)
    assert (about["repeated_texts"], about["skipped"], about["differs"]) == (1, [], {})
    assert about["chance"]["text_retrieval_recall@1"] == pytest.approx(1 / 4)
    assert (pictures / "out/pairs.json").is_file()


def test_the_same_pairs_in_every_form_score_as_in_the_layout_for_evaluation(load_colours, pictures, make_tar):
    colours = ["red", "green", "blue", YELLOW]
    pairs = [(colour, caption) for colour, (_, caption) in zip(colours, ROWS, strict=True)]
    for folder, part in (("shards", pairs[:3]), ("more", pairs[3:])):
        make_tar(pictures / folder / f"{len(part)}.tar", tar_members(part))
    make_tar(pictures / "whole" / "7.tar", tar_members(pairs))
    for name, caption in ROWS:
        (pictures / "photos").mkdir(exist_ok=True)
        shutil.copy(pictures / name, pictures / "photos")
        (pictures / "photos" / name).with_suffix(".txt").write_text(f" {caption}\n")
    columns = {"filepath": [name for name, _ in ROWS], "title": [caption for _, caption in ROWS]}
    pq.write_table(pa.table(columns), pictures / "table.parquet")
    (pictures / "commas.csv").write_text("title,filepath\n" + "".join(f"{text},{name}\n" for name, text in ROWS))
    layout = write_dataset(pictures / "layout", [tar_members(pairs)], kind="retrieval")
    forms = ["table.parquet", "commas.csv", "photos", "whole", "whole/7.tar", "shards::more/1.tar"]
    tasks = [layout, *(pictures / form for form in forms[:-1]), f"{pictures}/shards::{pictures}/more/1.tar"]
    tasks += [f"{pictures}/{{shards,more}}/*.tar"]
    expected, *found = evaluate(pictures, *tasks)
    assert expected["metrics"]["text_retrieval_recall@1"] == 2 / 4
    names = [result["dataset"] for result in found]
    assert names == ["table", "commas", "photos", "whole", "7", "shards+1", pictures.name]
    for result in found:
        assert result["metrics"] == expected["metrics"]
        assert result["stillroom"]["chance"] == expected["stillroom"]["chance"]


def test_rows_of_one_picture_are_its_captions(load_colours, pictures):
    rows = [("red.png", "red"), ("blue.png", "blue"), ("./red.png", " a  green\tthing "), ("red.png", "crimson")]
    rows = [(name, caption.replace("\t", " ")) for name, caption in rows]
    table = write_table(pictures / "pairs.tsv", rows)
    found = list(open_pairs(str(table), DataConfig()))
    assert [(item.key, item.captions) for item in found] == [
        ("0", ("red", "a green thing", "crimson")),
        ("1", ("blue",)),
    ]
    assert [item.image for item in found] == [picture("red"), picture("blue")]
    [result] = evaluate(pictures, table)
    # "red" and "blue" find theirs; "a green thing" is as far from both pictures, "crimson" (no colour) as near to both.
    assert result["metrics"]["image_retrieval_recall@1"] == 2 / 4
    assert result["metrics"]["text_retrieval_recall@1"] == 1
    members = [("0.png", picture("red")), ("0.txt", b"red\na green thing\ncrimson\n")]
    members += [("1.png", picture("blue")), ("1.txt", b"blue\n")]
    layout = write_dataset(pictures / "layout", [members], kind="retrieval")
    assert evaluate(pictures, layout)[0]["metrics"] == result["metrics"]
    assert result["stillroom"]["chance"]["text_retrieval_recall@1"] == pytest.approx((3 / 4 + 1 / 4) / 2)


def test_what_cannot_be_used_is_counted_and_listed(load_colours, pictures, caplog):
    (pictures / "broken.png").write_bytes(b"no picture")
    rows = [("red.png", "  "), *ROWS, ("gone.png", "red"), ("red.png", ""), ("broken.png", "blue"), ("green.png",)]
    table = write_table(pictures / "pairs.tsv", rows)
    for _ in range(2):  # the second time from the cached embeddings
        caplog.clear()
        [result] = evaluate(pictures, table)
        assert result["metrics"]["text_retrieval_recall@1"] == 2 / 4
        assert [(fault["key"], fault["reason"]) for fault in result["stillroom"]["skipped"]] == [
            ("0", "caption_empty"),
            ("5", "image_missing"),
            ("6", "caption_empty"),
            ("7", "image_unreadable"),
            ("8", "row_malformed"),
        ]
        assert "pairs: 5 pictures or captions skipped (caption_empty 2, image_missing 1" in caplog.text
        (pictures / "out/pairs.json").unlink()
    source = open_pairs(str(table), DataConfig()).source
    assert (source.count(), len(list(source))) == (5, 9)  # of the five, one turns out to be broken


def test_a_second_run_computes_nothing_and_changed_pairs_are_scored_again(load_colours, pictures, caplog):
    table = write_table(pictures / "pairs.tsv", ROWS)
    first = evaluate(pictures, table)
    calls = load_colours.calls
    with caplog.at_level(logging.INFO):
        assert evaluate(pictures, table) == first
    assert "already evaluated" in caplog.text
    assert load_colours.calls == calls
    write_table(table, [*ROWS[:3], ("yellow.png", "red and green")])
    assert evaluate(pictures, table)[0]["metrics"]["text_retrieval_recall@1"] == 1


def test_the_fingerprint_is_of_captions_and_contents_not_of_places(pictures, tmp_path_factory):
    def fingerprint(table):
        return open_pairs(str(table), DataConfig()).fingerprint

    first = fingerprint(write_table(pictures / "pairs.tsv", ROWS))
    moved = shutil.copytree(pictures, tmp_path_factory.mktemp("elsewhere") / "data")
    assert fingerprint(moved / "pairs.tsv") == first
    seen = {first}
    write_table(moved / "pairs.tsv", [*ROWS[:3], ("yellow.png", "Red")])
    seen.add(fingerprint(moved / "pairs.tsv"))
    write_table(moved / "pairs.tsv", ROWS)
    (moved / "red.png").write_bytes(picture("red", size=(3, 3)))
    seen.add(fingerprint(moved / "pairs.tsv"))
    shutil.copy(pictures / "red.png", moved)
    seen.add(fingerprint(write_table(moved / "pairs.tsv", [*ROWS, ("gone.png", "red")])))  # listed in the result
    assert len(seen) == 4
    assert fingerprint(write_table(moved / "pairs.tsv", ROWS)) == first


def test_blocks_and_limits_of_the_reader(pictures):
    table = str(write_table(pictures / "pairs.tsv", ROWS))
    for config, captions in [
        (DataConfig(block_rows=1), ["red", "green", "blue", "red"]),
        (DataConfig(block_rows=2, max_per_shard=1), ["red", "blue"]),
    ]:
        assert [item.captions[0] for item in open_pairs(table, config)] == captions
    names = [item.name for item in open_pairs(table, DataConfig(block_rows=2))]
    assert names == ["pairs-00000/0", "pairs-00000/1", "pairs-00001/2", "pairs-00001/3"]


def test_folders_for_evaluation_stay_what_they_were(colour_classes, colour_captions, pictures, make_tar):
    for name in ("red", "blue"):  # a sub-folder per class goes before the captions beside the pictures
        (pictures / "classes" / name).mkdir(parents=True)
        shutil.copy(pictures / f"{name}.png", pictures / "classes" / name)
        shutil.copy(pictures / f"{name}.png", pictures / "classes")
        (pictures / "classes" / f"{name}.txt").write_text(name)
    kinds = {path: find_task(str(path)) for path in (colour_classes, colour_captions, pictures / "classes")}
    assert [task.kind for task in kinds.values()] == ["classification", "retrieval", "classification"]
    assert {task.reader for task in kinds.values()} == {"webdataset"}
    make_tar(pictures / "half" / "0.tar", tar_members([("red", "red")]))
    (pictures / "half" / "dataset_type.txt").write_text("retrieval")
    make_tar(pictures / "lost" / "test" / "0.tar", tar_members([("red", "red")]))
    for folder in ("half", "lost"):
        with pytest.raises(DataError, match="no test/nshards.txt"):
            find_task(str(pictures / folder))


def test_names(pictures, monkeypatch):
    monkeypatch.chdir(pictures)
    write_table(pictures / "my.pairs.tsv", ROWS)
    assert pairs_name("my.pairs.tsv") == "my.pairs"
    assert pairs_name(".") == pairs_name("{0..3}.tar") == pairs_name("*/x{0..3}/*.tar") == pictures.name
    assert pairs_name("shards/v1.2/{0..3}.tar") == pairs_name("s3://bucket/v1.2/*.tar") == "v1.2"
    assert pairs_name("https://host/x/00000.tar?token=1") == "00000"
    assert pairs_name("a/x.tsv::b/x.tsv::y.csv") == "x+y"
    assert len(pairs_name("::".join(f"table{i}.tsv" for i in range(99)))) == 80
    assert len(find_tasks(("my.pairs.tsv", "./my.pairs.tsv", str(pictures / "my.pairs.tsv")))) == 1
    write_table(pictures / "other" / "my.pairs.tsv", [(f"../{name}", text) for name, text in ROWS])
    with pytest.raises(ConfigError, match=r"two tasks are named 'my\.pairs'; rename the folder or file"):
        find_tasks(("my.pairs.tsv", "other/my.pairs.tsv"))
    with pytest.raises(ConfigError, match="has no split 'train'"):
        open_task(find_task("my.pairs.tsv"), split="train")


def test_scores_during_training(colour_model, pictures):
    table = write_table(pictures / "pairs.tsv", ROWS, columns=("picture", "text"))
    config = EvaluationConfig(tasks=(str(table),))
    training = DataConfig(image_column="picture", caption_column="text", key_column="id", max_per_shard=1)
    scorer = make_scorer(config, training)
    expected = {"pairs/image_retrieval_recall@1": 3 / 4, "pairs/text_retrieval_recall@1": 2 / 4}
    assert scorer(colour_model) == scorer(colour_model) == expected
    with pytest.raises(DataError, match="no column 'filepath'"):  # said before anything is trained
        make_scorer(config)


def test_the_items_are_one_a_picture_whatever_is_between(pictures, make_tar):
    members = tar_members([("red", "red"), ("green", " "), ("blue", "blue")])
    make_tar(pictures / "a" / "0.tar", members)
    make_tar(pictures / "b" / "0.tar", members)  # the same keys in another tar are other pictures
    found = list(open_pairs(f"{pictures}/a::{pictures}/b", DataConfig()))
    assert [type(one) for one in found] == [Item, Fault, Item] * 2
    assert len({one.name for one in found if isinstance(one, Item)}) == 4


def test_the_split_of_the_page_keeps_equal_captions_together(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "evaluate.md").read_text(encoding="utf-8")
    snippet = re.search(r"## Your own pairs\n.*?```python\n(.*?)```", page, re.S)[1]
    monkeypatch.chdir(tmp_path)
    rows = [(f"{number}.png", f"Caption {number // 2}") for number in range(2000)]
    write_table(tmp_path / "pairs.tsv", rows)
    exec(compile(snippet, "evaluate.md", "exec"), {})
    parts = {}
    for name in ("train", "test"):
        header, *lines = (tmp_path / f"{name}.tsv").read_text().splitlines()
        assert header == "filepath\ttitle"
        parts[name] = [tuple(line.split("\t")) for line in lines]
    assert sorted(parts["train"] + parts["test"]) == sorted(rows)
    assert not {caption for _, caption in parts["train"]} & {caption for _, caption in parts["test"]}
    assert 60 < len(parts["test"]) < 140  # one in twenty


def command(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def test_the_command_takes_the_names_of_columns(load_colours, pictures, capsys):
    table = write_table(pictures / "mine.tsv", ROWS, columns=("photo", "about"))
    settings = ["--set", "data.image_column=photo", "--set", "data.caption_column=about"]
    status, out, _ = command(capsys, "evaluate", "m", "--tasks", table, "--out", pictures / "out", *settings)
    assert status == 0
    assert "mine" in out
    assert [word for word in ("75.0", "50.0") if word not in out] == []


BAD = {
    "empty.tsv": ("", "is empty; its first line must name the columns"),
    "header.tsv": ("filepath\ttitle\n", "has a header but no rows"),
    "columns.tsv": ("photo\ttitle\nred.png\tred\n", "has no column 'filepath'; it has 'photo', 'title': use --set"),
    "captions.tsv": ("filepath\ttitle\nred.png\t \nblue.png\t\n", "fewer than two pictures with a caption (caption_em"),
    "paths.tsv": ("filepath\ttitle\na.png\tx\nb.png\ty\n", "fewer than two pictures with a caption (image_missing 2)"),
    "one.tsv": ("filepath\ttitle\nred.png\tred\nred.png\tcrimson\n", "of one, recall is 1 whatever the model"),
    "damaged.tsv": ("filepath\ttitle\nred.png\tred\nbroken.png\tx\n", "damaged: only one picture can be used"),
    "broken.tsv": ("filepath\ttitle\nbroken.png\tred\nworse.png\tx\n", "no picture can be used (image_unreadable)"),
    "cut.tar": ("nothing of a tar", "cut.tar: "),
    "pairs.xlsx": ("x", "is none of .tar, .csv, .tsv, .parquet or a folder"),
    "absent.tsv": (None, "absent.tsv'; DATA is tars"),
    "absent/*.tar": (None, "absent/*.tar'; DATA is tars"),
    "absent": (None, "or pairs"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(load_colours, pictures, capsys, caplog, name):
    text, said = BAD[name]
    (pictures / "broken.png").write_bytes(b"no picture")
    (pictures / "worse.png").write_bytes(b"no picture either")
    if text is not None:
        (pictures / name).write_text(text)
    status, out, err = command(capsys, "evaluate", "m", "--tasks", pictures / name, "--out", pictures / "out")
    lines = [line for line in err.splitlines() if line.startswith("stillroom: ")]
    assert (status, out, len(lines)) == (2, "", 1)
    assert said in lines[0]
    assert "Traceback" not in err
    assert {path.name for path in pictures.glob("out/*.json")} <= {"run.json"}


def test_pictures_without_captions_are_no_pairs(pictures):
    with pytest.raises(DataError, match=r"fewer than two pictures with a caption \(caption_missing 4\)"):
        find_task(str(pictures))
    (pictures / "nothing").mkdir()
    with pytest.raises(DataError, match="nor tars or pictures with captions"):
        find_task(str(pictures / "nothing"))
