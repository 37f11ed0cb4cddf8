"""The task list: every file loads, states what its data holds, and is found by name, direction or path."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from stillroom.errors import ConfigError, DataError
from stillroom.evaluate.datasets import open_dataset
from stillroom.evaluate.items import Item
from stillroom.evaluate.results import result_path
from stillroom.evaluate.tasks import Task, find_task, find_tasks, list_tasks, locate, read_task

CHECKOUT = Path(__file__).resolve().parents[2]
BUNDLED = [task for task in list_tasks() if (CHECKOUT / task.path).is_dir()]


def test_the_list():
    tasks = list_tasks()
    assert [task.name for task in tasks] == sorted(task.name for task in tasks)
    assert {"openmoji_names", "openmoji_subgroups", "openmoji_groups"} <= {task.name for task in tasks}
    for task in tasks:
        assert task.version >= 1
        assert task.title
        assert task.licence != "unknown"
        assert task.obtain
        assert not Path(task.path).is_absolute()


def test_the_benchmarks_of_both_papers_are_complete():
    entries = [entry for task in list_tasks() for entry in task.entries()]
    diht = [entry for entry in entries if entry["suite"] == "diht"]
    assert len(diht) == 29
    assert Counter(entry["kind"] for entry in diht) == {"classification": 17, "retrieval": 10, "vqa": 2}
    cheng = {entry["name"]: entry for entry in entries if entry["suite"] == "cheng"}
    assert {name: entry["classes"] for name, entry in cheng.items()} == {
        "imagenet21k_1k": 22843,
        "openimages_19958": 19958,
    }
    assert {entry["metric"] for entry in cheng.values()} == {"hit@1"}
    by_name = {entry["name"]: entry for entry in entries}
    assert by_name["hateful_memes"]["metric"] == "roc_auc"
    assert by_name["voc2007_multilabel"]["metric"] == "mean_average_precision_11_point"
    assert by_name["vqav2"]["metric"] == "vqa_accuracy"
    assert (by_name["imagenet1k"]["size"], by_name["imagenet1k"]["chance"]) == (50000, 0.001)
    assert by_name["mscoco_captions_i2t"]["chance"] == by_name["mscoco_captions_t2i"]["chance"] == 1 / 5000
    assert by_name["snli_ve"]["chance"] == pytest.approx(1 / 3, abs=1e-6)


def test_a_suite_is_named_as_one():
    assert {task.suite for task in find_tasks(("cheng",))} == {"cheng"}
    assert len(find_tasks(("diht",))) == 24
    assert len(find_tasks(("diht", "cheng", "imagenet1k"))) == 26
    assert len(find_tasks(("bundled",))) == len(BUNDLED)


def test_each_retrieval_direction_is_an_entry():
    entries = [entry for task in list_tasks() for entry in task.entries()]
    names = [entry["name"] for entry in entries]
    assert len(set(names)) == len(names)
    wanted = {"name", "kind", "metric", "classes", "size", "chance", "licence", "obtain"}
    assert all(wanted <= entry.keys() for entry in entries)
    # Of these two it depends on the answers and labels themselves; a result states it.
    unknown = {"openimages", "vqav2"}
    assert {entry["name"] for entry in entries if entry["chance"] is None} == unknown
    assert all(0 < entry["chance"] < 1 for entry in entries if entry["name"] not in unknown)
    by_name = {entry["name"]: entry for entry in entries}
    assert by_name["openmoji_names_t2i"]["metric"] == "image_retrieval_recall@1"
    assert by_name["openmoji_names_i2t"]["metric"] == "text_retrieval_recall@1"
    assert by_name["openmoji_groups"]["metric"] == "acc1"


@pytest.mark.parametrize("task", BUNDLED, ids=lambda task: task.name)
def test_bundled_data_is_what_its_task_states(task):
    dataset = open_dataset(CHECKOUT / task.path, split=task.split)
    items = list(dataset)
    assert all(isinstance(item, Item) for item in items)
    assert dataset.kind == task.kind
    assert len(items) == task.pictures == dataset.count()
    if task.kind == "retrieval":
        texts = sum(len(item.captions) for item in items)
        assert texts == task.texts
    else:
        assert len(dataset.classnames) == len(set(dataset.classnames)) == task.classes
        assert {item.label for item in items} == set(range(task.classes))


def test_names_directions_and_paths_find_tasks(colour_classes, monkeypatch):
    whole = find_task("openmoji_names")
    assert find_task("openmoji_names_t2i") == find_task("openmoji_names_i2t") == whole
    assert find_tasks(("openmoji_names_t2i", "openmoji_names_i2t", "openmoji_names")) == (whole,)
    assert find_tasks(()) == list_tasks()
    own = find_task(str(colour_classes))
    assert (own.name, own.kind, own.version) == ("colours", "classification", 0)
    assert own.entries()[0]["name"] == "colours"
    monkeypatch.chdir(colour_classes.parent)
    assert find_task("colours").path == own.path


def test_unknown_names_are_one_line(tmp_path):
    with pytest.raises(ConfigError, match="no task 'imagenet0'; did you mean imagenet1k.*; allowed: .*openmoji_names"):
        find_task("imagenet0")
    with pytest.raises(ConfigError, match=r"no task '~'; allowed: .*, a suite \(bundled, diht, cheng\), or the folder"):
        find_task("~")
    with pytest.raises(DataError, match="neither"):
        find_task(str(tmp_path))


def test_two_sets_of_one_name_are_refused(colour_classes, tmp_path):
    other = tmp_path / "other" / "colours"
    other.parent.mkdir()
    other.symlink_to(colour_classes)
    assert len(find_tasks((str(colour_classes), str(other)))) == 1  # one and the same folder
    other.unlink()
    shutil.copytree(colour_classes, other)
    with pytest.raises(ConfigError, match="two tasks are named 'colours'"):
        find_tasks((str(colour_classes), str(other)))


def test_parameters_of_a_reader_are_checked(tmp_path):
    (tmp_path / "x").mkdir()
    task = Task(name="x", kind="retrieval", path="x", reader="winoground", parameters={"picture": "a"})
    with pytest.raises(ConfigError, match=r"task 'x': unknown key 'parameters.picture'; did you mean 'parameters.pic"):
        task.read(tmp_path / "x")


@pytest.mark.parametrize("task", list_tasks(), ids=lambda task: task.name)
def test_the_parameters_of_every_task_fit_its_reader(task, tmp_path):
    if task.reader != "webdataset":
        with pytest.raises(DataError):  # and not a ConfigError: only the data is missing
            task.read(tmp_path)


def test_locate_looks_below_the_root_given(tmp_path, monkeypatch):
    task = find_task("openmoji_groups")
    with pytest.raises(DataError, match="no data at .*openmoji.groups.*build.py"):
        locate(task, str(tmp_path))
    (tmp_path / task.path).mkdir(parents=True)
    assert locate(task, str(tmp_path)) == tmp_path / task.path
    monkeypatch.chdir(tmp_path)
    assert locate(task) == tmp_path / task.path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: retrieval\npath: x\n", "lacks 'version'"),
        ("version: 1\nkind: video\npath: x\n", "allowed: 'classification', 'retrieval'"),
        ("version: 1\nkind: classification\npath: x\nclases: 3\n", "did you mean 'classes'"),
        ("version: 1\nkind: retrieval\npath: x\nreader: csv\n", "no reader 'csv'; allowed: webdataset, binary_images"),
        ("version: 1\nkind: vqa\npath: x\nmetric: roc_auc\n", "'roc_auc' does not go with kind 'vqa'"),
        ("version: one\nkind: classification\npath: x\n", "'version' is 'one'"),
        ("[1, 2]", "holds no keys"),
        ("version: [", "task file"),
        ("!!python/object/apply:os.getcwd []", "task file"),
    ],
)
def test_a_wrong_task_file_is_one_line(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        read_task(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["..", "../../etc", "a/b", ".hidden", "é x", "a\\b"])
def test_result_names_are_never_paths(tmp_path, name):
    path = result_path(tmp_path, Task(name=name, kind="retrieval", path="x"))
    assert path.parent == tmp_path
    assert path.suffix == ".json"
    assert not path.name.startswith(".")


def test_the_page_on_tasks_names_every_task_of_the_papers_and_its_numbers():
    rows = [line for line in (CHECKOUT / "docs/tasks.md").read_text().splitlines() if line.startswith("| `")]
    for task in list_tasks():
        if task.suite in ("diht", "cheng"):
            row = next(row for row in rows if f"`{task.name}`" in row.split("|")[1])
            stated = [task.pictures, task.texts, task.questions, task.classes if task.kind != "vqa" else None]
            assert all(f"{number:,}" in row for number in stated if number is not None), row
