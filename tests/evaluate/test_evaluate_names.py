"""Class names from several places, in an order that is checked against the data."""

import json

import pytest
from evaluate_official import OFFICIAL, RGB, put_json, put_lines

from stillroom.errors import DataError, MissingDependencyError
from stillroom.evaluate import names
from stillroom.evaluate.datasets import open_task
from stillroom.evaluate.names import check_order
from stillroom.evaluate.tasks import find_task


def test_names_may_be_worded_differently_but_not_in_another_order():
    own = ("aquarium fish", "baby", "bear")
    check_order(("goldfish", "infant", "bear"), own, "x")
    check_order(("Aquarium_Fish", "baby", "bear"), own, "x")
    with pytest.raises(DataError, match="its name 1 is 'baby', which the data has as class 2"):
        check_order(("baby", "aquarium fish", "bear"), own, "x")
    with pytest.raises(DataError, match="2 class names; the data has 3 classes"):
        check_order(("baby", "bear"), own, "x")
    check_order(("bass", "bass", "crane"), ("bass", "bass", "crane"), "x")  # two classes of one name


def test_files_beside_the_data_come_first(tmp_path):
    OFFICIAL["dtd"](tmp_path)
    put_lines(tmp_path / "dtd/classnames.txt", ["azure", "green", "scarlet"])
    put_lines(tmp_path / "dtd/zeroshot_classification_templates.txt", ["{c}!"])
    dataset = open_task(find_task("dtd"), str(tmp_path))
    assert (dataset.classnames, dataset.templates) == (("azure", "green", "scarlet"), ("{c}!",))
    put_lines(tmp_path / "dtd/classnames.txt", RGB)
    with pytest.raises(DataError, match="its name 1 is 'red', which the data has as class 3"):
        open_task(find_task("dtd"), str(tmp_path))


def test_numbered_classes_are_named_by_the_clip_benchmark_package(tmp_path, monkeypatch):
    OFFICIAL["flowers"](tmp_path)
    (tmp_path / "flowers/classnames.txt").unlink()
    with monkeypatch.context() as without:
        without.setattr(names, "find_spec", lambda name: None)
        with pytest.raises(MissingDependencyError, match="if there is no classnames.txt .* 'clip-benchmark'"):
            open_task(find_task("flowers"), str(tmp_path))
    package = tmp_path / "site/clip_benchmark"
    put_json(package / "datasets/en_classnames.json", {"flowers": ["pink primrose", "orchid", "bells"]})
    (package / "__init__.py").write_text("raise RuntimeError('its code is not run')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert open_task(find_task("flowers"), str(tmp_path)).classnames == ("pink primrose", "orchid", "bells")
    (package / "datasets/en_classnames.json").write_text(json.dumps({"cars": []}))
    with pytest.raises(DataError, match="no names for 'flowers'; write classnames.txt"):
        open_task(find_task("flowers"), str(tmp_path))
