"""Every task of the two papers on a miniature in its official format, from files to result, with two models."""

import dataclasses
import logging

import pytest
from evaluate_official import IDS, OFFICIAL, RGB, put_lines

from stillroom.errors import ConfigError, DataError
from stillroom.evaluate import names
from stillroom.evaluate import run as stage
from stillroom.evaluate.config import EvaluateConfig
from stillroom.evaluate.datasets import open_task
from stillroom.evaluate.readers import class_folders
from stillroom.evaluate.readers.wordnet import WordNetClasses
from stillroom.evaluate.tasks import find_task, find_tasks, list_tasks

# What a model that sees colours scores in the metrics that stand for a task.
EXPECTED = {
    "snli_ve": {"acc1": 0.0},  # it cannot tell the three statements apart, and ties go against it
    # "blue" is no candidate; ten answers: "red" and "green" for their pictures are worth 1, "is it" has one candidate
    "vqav2": {"vqa_accuracy": (1 + 1 + 1 + 0) / 4},
}


@pytest.fixture
def small_wordnet(monkeypatch):
    def classes(which):
        if which == "imagenet1k":
            return WordNetClasses(ids=IDS, names=RGB)
        names = ("red|crimson", "green|verdant", "blue|azure", "blue", "red")
        return WordNetClasses(ids=(*IDS, IDS[2], IDS[0]), names=names)

    monkeypatch.setattr(class_folders, "wordnet_classes", classes)


@pytest.fixture
def tiny_open_clip():
    import open_clip
    import torch
    from open_clip.transform import image_transform

    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 64, "layers": 1, "width": 32, "patch_size": 32, "head_width": 16},
        text_cfg={"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    )
    return model, image_transform(64, is_train=False), open_clip.SimpleTokenizer(context_length=24)


def _config(root, *names, **options):
    return EvaluateConfig(tasks=names, data_root=str(root), **options)


def _evaluate(loaded, config, out):
    return {
        result["dataset"]: result for result in stage.evaluate_model(loaded, "m", find_tasks(config.tasks), config, out)
    }


def test_every_task_of_the_papers_has_a_miniature():
    assert {task.name for task in list_tasks() if task.suite in ("diht", "cheng")} == set(OFFICIAL)


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_model_that_sees_colours_scores_as_it_should(name, colour_model, small_wordnet, tmp_path):
    OFFICIAL[name](tmp_path)
    task = find_task(name)
    result = _evaluate(colour_model, _config(tmp_path, name), tmp_path / "out")[name]
    main = {metric: result["metrics"][metric] for metric in task.metrics}
    assert main == pytest.approx(EXPECTED.get(name, dict.fromkeys(task.metrics, 1.0)))
    assert result["stillroom"]["skipped"] == []
    assert set(result["metrics"]) == set(result["stillroom"]["chance"])
    assert result["stillroom"]["kind"] == task.kind


def test_the_whole_suite_goes_on_is_reported_and_is_skipped_when_run_again(
    tiny_open_clip, small_wordnet, tmp_path, caplog
):
    for name, write in OFFICIAL.items():
        if name != "dtd":
            write(tmp_path)
    config = _config(tmp_path, "diht", "cheng")
    with caplog.at_level(logging.INFO):
        results = _evaluate(tiny_open_clip, config, tmp_path / "out")
    assert set(results) == set(OFFICIAL) - {"dtd"}
    assert "dtd: not evaluated: task 'dtd': no data at" in caplog.text
    assert "www.robots.ox.ac.uk" in caplog.text
    for result in results.values():
        assert all(0 <= value <= 1 for value in result["metrics"].values()), result
    # A count that differs from the published one is reported, not refused.
    assert "cifar10: n is 3, the task file states 10,000" in caplog.text
    assert results["cifar10"]["stillroom"]["differs"] == {"n": [3, 10000], "classes": [3, 10]}
    assert results["openimages_19958"]["stillroom"]["differs"]["classes"] == [4, 19958]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert _evaluate(tiny_open_clip, config, tmp_path / "out") == results
    assert caplog.text.count("already evaluated") == len(OFFICIAL) - 1


def test_a_picture_with_several_questions_is_embedded_once(colour_model, tmp_path, monkeypatch):
    OFFICIAL["vqav2"](tmp_path)
    seen = []
    encode = type(colour_model[0]).encode_image
    monkeypatch.setattr(
        type(colour_model[0]), "encode_image", lambda self, pixels: seen.append(len(pixels)) or encode(self, pixels)
    )
    result = _evaluate(colour_model, _config(tmp_path, "vqav2"), tmp_path / "out")["vqav2"]
    assert sum(seen) == 3
    counts = {key: result["stillroom"][key] for key in ("n", "questions", "questions_without_picture", "choices")}
    assert counts == {"n": 3, "questions": 4, "questions_without_picture": 0, "choices": 2}


def test_questions_about_missing_pictures_are_counted(colour_model, tmp_path):
    OFFICIAL["vqav2"](tmp_path)
    (tmp_path / "mscoco_captions/val2014/COCO_val2014_000000000000.jpg").unlink()
    result = _evaluate(colour_model, _config(tmp_path, "vqav2"), tmp_path / "out")["vqav2"]
    assert result["stillroom"]["questions_without_picture"] == 2
    assert [fault["reason"] for fault in result["stillroom"]["skipped"]] == ["image_missing"]
    assert result["metrics"]["vqa_accuracy"] == pytest.approx((1 + 0) / 2)


def test_hits_rank_every_class_and_stand_beside_those_without_verified_negatives(colour_model, tmp_path):
    OFFICIAL["openimages_19958"](tmp_path)
    base = tmp_path / "openimages"
    header = "ImageID,Source,LabelName,Confidence"
    # The picture is red. People said that it shows red and green, and neither of two plain reds, which come first.
    rows = [
        header,
        f"{0:016x},verification,/m/02,1",
        f"{0:016x},verification,/m/01,0",
        f"{0:016x},verification,/m/04,0",
    ]
    put_lines(base / "test-annotations-human-imagelabels.csv", rows)
    (base / "oidv6-class-descriptions.csv").write_text("/m/01,red\n/m/02,red green\n/m/04,red\n/m/05,green\n")
    result = _evaluate(colour_model, _config(tmp_path, "openimages_19958"), tmp_path / "out")["openimages_19958"]
    metrics, chance = result["metrics"], result["stillroom"]["chance"]
    assert [metrics[f"hit@{k}"] for k in (1, 2, 5, 10)] == [0, 0, 1, 1]
    assert [metrics[f"hit@{k}_negatives_left_out"] for k in (1, 2, 5, 10)] == [1, 1, 1, 1]
    assert (chance["hit@1"], chance["hit@1_negatives_left_out"]) == pytest.approx((1 / 4, 1 / 2))
    assert result["stillroom"]["verified_negatives"] == 2
    assert result["stillroom"]["repeated_names"] == 1
    assert result["stillroom"]["headline"] == ["hit@1"]
    put_lines(base / "test-annotations-human-imagelabels.csv", rows[:2])
    result = _evaluate(colour_model, _config(tmp_path, "openimages_19958"), tmp_path / "out")["openimages_19958"]
    assert result["metrics"] == {"hit@1": 0, "hit@2": 0, "hit@5": 1, "hit@10": 1}  # nobody denied anything


def test_unverified_labels_are_left_out_of_average_precision(colour_model, tmp_path):
    OFFICIAL["openimages"](tmp_path)
    result = _evaluate(colour_model, _config(tmp_path, "openimages"), tmp_path / "out")["openimages"]
    # /m/01 and /m/02 have a verified picture of either kind, /m/03 too: the blue one, and the green one as a negative.
    assert result["stillroom"]["classes_scored"] == 3
    assert result["stillroom"]["n"] == 3  # the picture without a positive is left out
    assert result["stillroom"]["chance"]["mean_average_precision"] == pytest.approx(1 / 2)


def test_a_caption_template_is_part_of_a_score(colour_model, colour_captions, tmp_path):
    config = _config(tmp_path, str(colour_captions))
    first = _evaluate(colour_model, config, tmp_path / "out")["colour_names"]
    config = _config(tmp_path, str(colour_captions), caption_template="red and {}")
    second = _evaluate(colour_model, config, tmp_path / "out")["colour_names"]
    assert first["metrics"] != second["metrics"]
    assert second["stillroom"]["caption_template"] == "red and {}"


def test_a_named_task_is_read_in_clip_benchmarks_layout_too(colour_model, colour_classes, tmp_path):
    colour_classes.rename(tmp_path / "cifar10")
    task = find_task("cifar10")
    dataset = open_task(task, str(tmp_path))
    assert (dataset.name, dataset.count(), dataset.templates[0]) == ("cifar10", 6, "a photo of {c}.")
    (tmp_path / "cifar10").rename(tmp_path / "winoground")
    with pytest.raises(DataError, match="is retrieval, but its data at winoground is classification"):
        open_task(find_task("winoground"), str(tmp_path))
    (tmp_path / "winoground").rename(tmp_path / "voc2007_multilabel")
    with pytest.raises(DataError, match="one label a picture"):
        _evaluate(colour_model, _config(tmp_path, "voc2007_multilabel"), tmp_path / "out")


def test_what_is_missing_says_how_to_obtain_it(tmp_path):
    for name in OFFICIAL:
        task = find_task(name)
        (tmp_path / task.path).mkdir(exist_ok=True)
        with pytest.raises(DataError, match="missing|holds no|is no data set") as error:
            open_task(task, str(tmp_path))
        assert task.obtain in str(error.value)
        assert "\n" not in str(error.value)


def test_the_best_of_several_names_may_count_instead_of_their_mean(colour_model, colour_classes, tmp_path):
    # The mean of the first class is grey, less green than "green red" is; its best name is the green picture exactly.
    (colour_classes / "classnames.txt").write_text("green|red|blue\ngreen red\nblue red\n")
    task = find_task(str(colour_classes))
    counts = {}
    for way in ("mean", "best"):
        tasks = (dataclasses.replace(task, synonyms=way),)
        result = stage.evaluate_model(colour_model, "m", tasks, _config(tmp_path), tmp_path / way)[0]
        counts[way] = round(6 * result["metrics"]["acc1"])
        assert result["stillroom"]["synonyms"] == way
    assert counts == {"mean": 2, "best": 2}


def test_the_best_name_counts_in_an_open_vocabulary_and_for_several_labels_too(colour_model, small_wordnet, tmp_path):
    for name in ("imagenet21k_1k", "openimages", "hateful_memes"):
        OFFICIAL[name](tmp_path)
        task = dataclasses.replace(find_task(name), synonyms="best")
        result = stage.evaluate_model(colour_model, "m", (task,), _config(tmp_path), tmp_path / "out")[0]
        assert result["metrics"][task.metric] == 1


def test_another_split_is_for_tars_only(tmp_path):
    OFFICIAL["dtd"](tmp_path)
    with pytest.raises(ConfigError, match="no split 'train' in its published format"):
        open_task(find_task("dtd"), str(tmp_path), split="train")


def test_a_missing_package_costs_its_own_task_only(colour_model, tmp_path, monkeypatch, caplog):
    for name in ("flowers", "dtd"):
        OFFICIAL[name](tmp_path)
    (tmp_path / "flowers/classnames.txt").unlink()
    monkeypatch.setattr(names, "find_spec", lambda name: None)
    assert set(_evaluate(colour_model, _config(tmp_path, "flowers", "dtd"), tmp_path / "out")) == {"dtd"}
    assert "flowers: not evaluated: naming the classes of 'flowers'" in caplog.text


def test_a_data_set_on_the_hub(colour_model, colour_classes, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *args, **options: asked.append((args, options)) or colour_classes
    )
    name = "hf-hub:clip-benchmark/wds_colours"
    result = _evaluate(colour_model, EvaluateConfig(tasks=(name,)), tmp_path / "out")
    assert result["wds_colours"]["metrics"]["acc1"] == 1
    assert asked[0][0] == ("clip-benchmark/wds_colours",)
    assert asked[0][1]["repo_type"] == "dataset"

    def offline(*args, **options):
        raise OSError("no network\nat all")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(DataError, match="cannot be fetched .no network at all.; fetch it where") as error:
        find_task(name)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="write hf-hub:ORGANISATION/NAME"):
        find_task("hf-hub:../../etc")
