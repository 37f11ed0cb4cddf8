import importlib.util
from pathlib import Path

import pytest
from PIL import Image

from stillroom.evaluate.datasets import open_dataset

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "probe_worth.py"


@pytest.fixture(scope="module")
def worth():
    spec = importlib.util.spec_from_file_location("probe_worth", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made_up(probe, scratch, zero=0.5):
    points = [{"method": "zero_shot", "shots": 0, "accuracy": zero, "spread": 0.0, "accuracies": [zero, zero]}]
    for method, by_shots in (("prompt_probe", probe), ("logistic_regression", scratch)):
        points += [{"method": method, "shots": k, "accuracies": list(pair)} for k, pair in by_shots.items()]
    return {"points": points}


def test_the_verdict_by_hand(worth):
    curve = made_up(
        probe={1: (0.40, 0.44), 4: (0.46, 0.52), 8: (0.6, 0.6)},  # 8 below by 8 (spread 2.8), below by 1 (4.2), above
        scratch={1: (0.39, 0.42), 4: (0.50, 0.50), 8: (0.7, 0.7)},  # above by 1.5 (0.7), below by 1 (4.2); not counted
    )
    first, second, third = worth.verdict(curve)
    assert first.endswith("fails at 1.")
    assert second.endswith("at 1 yes; at 4 no (within the spread).")
    assert "(50.0%) are worth more than 1 picture per class without them (40.5%)" in third


def test_the_page_holds_what_the_stored_results_say(worth):
    curves = worth.load(ROOT / "docs" / "probe_worth")
    page = (ROOT / "docs" / "probe.md").read_text(encoding="utf-8")
    assert worth.with_section(page, worth.section(curves)) == page
    for curve in curves:
        assert {point["shots"] for point in curve["points"]} == {0, 1, 2, 4, 8, 16, 32}
        assert curve["draws"] >= 5


def test_digits_become_a_folder_per_class(worth, tmp_path):
    worth.write_digits(tmp_path / "digits")
    data = open_dataset(tmp_path / "digits")
    assert data.classnames == worth.DIGITS
    files = sorted((tmp_path / "digits" / "0").iterdir())
    assert len(files) == 178
    with Image.open(files[0]) as picture:
        assert (picture.size, picture.mode) == ((120, 120), "RGB")
        assert picture.getpixel((2, 2)) == (255, 255, 255)
        assert picture.convert("L").getextrema()[0] < 30
    assert sum(len(list(folder.iterdir())) for folder in (tmp_path / "digits").iterdir() if folder.is_dir()) == 1797
