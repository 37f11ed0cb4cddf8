"""Results read back and put side by side: rows are checked as data, table and plot only for being drawn."""

import io
import json

import pytest
from rich.console import Console

from stillroom.errors import ArtifactError, ConfigError
from stillroom.evaluate.compare import (
    SHOWN,
    Row,
    Wins,
    compare_folders,
    comparison_rows,
    load,
    mean_row,
    mean_rows,
    table,
    wins,
)
from stillroom.evaluate.difference_plot import plot, sorted_rows
from stillroom.evaluate.published import KINDS, find_published, published_models
from stillroom.evaluate.results import existing_result, make_result, read_results, write_result
from stillroom.evaluate.tasks import Task

CLASSES = Task(name="pets", kind="classification", path="x", version=2)
PAIRS = Task(name="names", kind="retrieval", path="y", version=1)


def _result(task, metrics, n=100, model="runs/a"):
    chance = dict.fromkeys(metrics, 0.25)
    return make_result(task=task, model=model, metrics=metrics, chance=chance, about={"n": n, "fingerprint": "f"})


def _write(folder, accuracy, **changes):
    write_result(folder, CLASSES, _result(CLASSES, {"acc1": accuracy, "acc5": 0.9}, **changes))
    recalls = {f"{kind}_retrieval_recall@{k}": accuracy / 2 for kind in ("image", "text") for k in (1, 5)}
    write_result(folder, PAIRS, _result(PAIRS, recalls))
    return folder


def test_schema_is_clip_benchmarks(tmp_path):
    result = _result(CLASSES, {"acc1": 0.5}, model="ViT-B-32/laion2b_s34b_b79k")
    assert [key for key in result if key != "stillroom"] == [
        "dataset",
        "model",
        "pretrained",
        "task",
        "metrics",
        "language",
    ]
    assert (result["model"], result["pretrained"]) == ("ViT-B-32", "laion2b_s34b_b79k")
    assert (result["dataset"], result["task"]) == ("pets", "zeroshot_classification")
    assert result["stillroom"]["task_version"] == 2
    assert result["stillroom"]["chance"] == {"acc1": 0.25}
    assert result["stillroom"]["versions"]["numpy"]
    (tmp_path / "run").mkdir()
    assert _result(PAIRS, {}, model=str(tmp_path / "run"))["pretrained"] == ""
    assert _result(PAIRS, {}, model="plain")["model"] == "plain"


def test_results_are_found_again_by_their_fingerprint(tmp_path):
    result = _result(CLASSES, {"acc1": 0.5})
    assert existing_result(tmp_path, CLASSES, "f") is None
    write_result(tmp_path, CLASSES, result)
    assert existing_result(tmp_path, CLASSES, "f") == result
    assert existing_result(tmp_path, CLASSES, "other") is None
    (tmp_path / "run.json").write_text("{}")  # not a result
    assert read_results(tmp_path) == {"pets": result}


def test_rows_line_up(tmp_path):
    names, results = load([_write(tmp_path / "one" / "eval", 0.4), _write(tmp_path / "two" / "eval", 0.6)])
    assert names == ["one/eval", "two/eval"]
    rows = comparison_rows(results)
    assert [(row.task, row.metric) for row in rows] == [
        ("names", "image_retrieval_recall@1"),
        ("names", "text_retrieval_recall@1"),
        ("pets", "acc1"),
    ]
    assert rows[2] == Row(task="pets", metric="acc1", n=100, chance=0.25, scores=(0.4, 0.6))
    assert rows[2].best == (1,)
    assert rows[2].difference == pytest.approx(0.2)
    mean = mean_row(rows)
    assert mean.scores == pytest.approx(((0.2 + 0.2 + 0.4) / 3, (0.3 + 0.3 + 0.6) / 3))
    assert mean.chance == 0.25
    assert [row.metric for row in comparison_rows(results, ["acc5"])] == ["acc5"]


def test_a_task_that_one_model_lacks(tmp_path):
    _, results = load([_write(tmp_path / "a", 0.4), _write(tmp_path / "b", 0.6)])
    del results[1]["pets"]
    row = comparison_rows(results)[-1]
    assert row.scores == (0.4, None)
    assert row.difference is None
    assert row.best == ()
    assert len(comparison_rows(results)) == 3
    assert mean_row(comparison_rows(results)).task == "mean of 2"
    assert mean_row([row]) is None


def test_results_on_different_data_are_not_compared(tmp_path):
    _, results = load([_write(tmp_path / "a", 0.4, n=100), _write(tmp_path / "b", 0.6, n=90)])
    with pytest.raises(ArtifactError, match="'pets' has n 90 and 100"):
        comparison_rows(results)
    same = [_result(CLASSES, {"acc1": 0.5}) for _ in range(2)]
    for result, classes in zip(same, (19_958, 19_994), strict=True):
        result["stillroom"]["classes"] = classes
    with pytest.raises(ArtifactError, match="'pets' has classes 19958 and 19994"):
        comparison_rows([{"pets": result} for result in same])


def test_files_of_clip_benchmark_itself_are_read(tmp_path):
    theirs = {
        "dataset": "wds/mscoco",
        "model": "ViT-B-32",
        "pretrained": "openai",
        "task": "zeroshot_retrieval",
        "metrics": {"image_retrieval_recall@5": 0.5, "text_retrieval_recall@5": 0.7},
        "language": "en",
    }
    (tmp_path / "any name.json").write_text(json.dumps(theirs))
    row = comparison_rows([read_results(tmp_path)])[0]
    assert row == Row(task="wds/mscoco", metric="image_retrieval_recall@5", n=None, chance=None, scores=(0.5,))
    (tmp_path / "second.json").write_text(json.dumps(theirs))
    with pytest.raises(ArtifactError, match="two results for 'wds/mscoco'"):
        read_results(tmp_path)


def test_table_and_plot_are_drawn(tmp_path):
    folders = [_write(tmp_path / "a[bold]", 0.4), _write(tmp_path / "b", 0.6)]
    drawn = compare_folders(folders, tmp_path / "plot.svg")
    console = Console(width=160, record=True, quiet=False, file=(tmp_path / "out").open("w"))
    console.print(drawn)
    text = console.export_text()
    assert "a[bold]" in text
    assert "text to image R@1" in text
    assert "+20.0" in text
    assert "mean of 3" in text
    assert b"<svg" in (tmp_path / "plot.svg").read_bytes()
    with pytest.raises(ConfigError, match="ends in .svg, .png or .pdf"):
        compare_folders(folders, tmp_path / "plot.docx")
    single = table(comparison_rows(load(folders[:1])[1]), ["a"])
    assert [str(column.header) for column in single.columns] == ["task", "metric", "n", "chance", "a"]


def test_bad_folders_are_one_line(tmp_path):
    with pytest.raises(ArtifactError, match="no results at"):
        read_results(tmp_path / "none")
    with pytest.raises(ArtifactError, match="holds no result"):
        read_results(tmp_path)
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ArtifactError, match="not valid JSON"):
        read_results(tmp_path)


def row(task, *scores, kind="classification", metric="acc1"):
    return Row(task=task, metric=metric, n=10, chance=0.1, scores=scores, kind=kind)


ROWS = [
    row("a", 0.5, 0.6, 0.7),
    row("b", 0.5, 0.4, None),
    row("c", 0.2, 0.2, 0.1, kind="retrieval"),
    row("d", None, 0.9, 0.9, kind="vqa"),
]


def test_differences_wins_and_means_by_kind():
    assert [r.differences for r in ROWS] == [
        pytest.approx((0.1, 0.2)),
        (pytest.approx(-0.1), None),
        pytest.approx((0.0, -0.1)),
        (None, None),
    ]
    assert wins(ROWS) == [Wins(ahead=1, ties=1, of=3), Wins(ahead=1, ties=0, of=2)]
    means = mean_rows(ROWS)
    assert [mean.task for mean in means] == ["mean of 1 classification", "mean of 1 retrieval", "mean of 2"]
    assert means[-1].scores == pytest.approx((0.35, 0.4, 0.4))
    assert [mean.task for mean in mean_rows(ROWS[:1] * 2)] == ["mean of 2"]
    assert mean_rows(ROWS[:1]) == []


def test_the_table_ends_in_means_and_wins():
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table(ROWS, ["x", "y", "z"], ["published: somewhere"]))
    text = console.export_text()
    assert "wins against x" in text
    assert "1 of 3, 1 tied" in text
    assert "last - first" in text
    assert "published: somewhere" in text


def test_bars_are_sorted_and_rows_without_a_difference_left_out():
    assert [r.task for r in sorted_rows([row("low", 0.5, 0.4), row("none", None, 1.0), row("high", 0.1, 0.4)])] == [
        "high",
        "low",
    ]
    assert [r.task for r in sorted_rows(ROWS)] == ["a", "c", "b"]


@pytest.mark.parametrize("models", [1, 2, 3])
def test_plots_of_one_two_and_three_models(tmp_path, models):
    rows = [Row(task=r.task, metric=r.metric, n=1, chance=0.1, scores=r.scores[:models]) for r in ROWS[:3]]
    plot(rows, ["x", "y", "z"][:models], tmp_path / "plot.png", shown=SHOWN)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    if models > 1:
        with pytest.raises(ConfigError, match="no task has scores of 'x' and of another"):
            plot([row("d", None, 0.9)], ["x", "y"], tmp_path / "plot.png", shown=SHOWN)


def test_what_stands_for_a_task_is_what_its_results_say(tmp_path):
    result = _result(CLASSES, {"acc1": 0.5, "roc_auc": 0.7})
    result["stillroom"]["headline"] = ["roc_auc"]
    assert [r.metric for r in comparison_rows([{"pets": result}])] == ["roc_auc"]
    assert comparison_rows([{"pets": result}])[0].kind == "classification"
    del result["stillroom"]
    only = comparison_rows([{"pets": result}])
    assert [(r.metric, r.kind, r.n, r.chance) for r in only] == [("acc1", "classification", None, None)]


def test_published_scores_stand_beside_ones_own(tmp_path):
    theirs = Task(name="imagenet1k", kind="classification", path="x", version=1)
    write_result(tmp_path / "mine", theirs, _result(theirs, {"acc1": 0.7}, n=50_000))
    write_result(tmp_path / "mine", CLASSES, _result(CLASSES, {"acc1": 0.9}))
    names, results = load(["published:diht_vitb32_224px", tmp_path / "mine"])
    assert names == ["diht_vitb32_224px (published)", "mine"]
    rows = {(r.task, r.metric): r for r in comparison_rows(results)}
    assert rows["imagenet1k", "acc1"] == Row(
        task="imagenet1k", metric="acc1", n=50_000, chance=0.25, scores=(pytest.approx(0.68), 0.7)
    )
    assert rows["pets", "acc1"].scores == (None, 0.9)
    assert rows["flickr30k", "text_retrieval_recall@1"].scores == (pytest.approx(0.844), None)
    assert wins(list(rows.values())) == [Wins(ahead=1, ties=0, of=1)]
    console = Console(width=200, record=True, file=(tmp_path / "out").open("w"))
    console.print(compare_folders(["published:diht_vitb32_224px", tmp_path / "mine"], tmp_path / "plot.svg"))
    assert "https://github.com/facebookresearch/diht" in console.export_text()


def test_every_published_score_has_a_source_and_a_metric_of_ours():
    models = published_models()
    assert {"diht_vitl14_336px", "ViT-B-32/openai", "ViT-L-14/laion2b_s32b_b82k", "cc3m_rn50_otter"} <= set(models)
    for name, published in models.items():
        assert "https://github.com/" in published.source
        assert published.note
        for task, result in published.results().items():
            assert set(result["metrics"]) <= set(KINDS), (name, task)
            assert all(0 < score < 1 for score in result["metrics"].values())
            assert result["stillroom"]["headline"]
    assert models["diht_vitl14_336px"].scores["mscoco_captions"] == pytest.approx(
        {"image_retrieval_recall@1": 0.493, "text_retrieval_recall@1": 0.653}
    )
    assert models["ViT-B-32/openai"].results()["imagenet1k"]["pretrained"] == "openai"


def test_unknown_published_names_list_those_there_are():
    assert find_published("diht_vitb32").name == "diht_vitb32_224px"
    with pytest.raises(ConfigError, match="did you mean diht_vitl14_224px or diht_vitl14_336px.; allowed: .*otter"):
        find_published("diht_vitl14")
    with pytest.raises(ConfigError, match="no published scores of ''; allowed"):
        find_published("")
