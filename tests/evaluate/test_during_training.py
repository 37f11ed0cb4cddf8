"""What `stillroom train` calls for scores on the way: missing data is told at once, what fails later is None."""

import shutil

import pytest
from PIL import Image

from stillroom.errors import DataError
from stillroom.evaluate.during_training import make_scorer
from stillroom.train.config import EvaluationConfig


@pytest.fixture
def folders(tmp_path):
    """Two data sets of red and blue pictures."""
    for name in ("first", "second"):
        for color in ("red", "blue"):
            (tmp_path / name / color).mkdir(parents=True)
            for index in range(2):
                Image.new("RGB", (8, 8), color).save(tmp_path / name / color / f"{index}.png")
    return tuple(str(tmp_path / name) for name in ("first", "second"))


def test_all_data_that_is_missing_is_named_at_once(folders, tmp_path):
    scorer = make_scorer(EvaluationConfig(tasks=(*folders, "winoground"), data_root=str(tmp_path)))
    shutil.rmtree(folders[0])
    with pytest.raises(DataError, match=r"2 of 3 evaluation\.tasks cannot be opened: first, winoground; ") as caught:
        scorer.check()
    assert "\n" not in str(caught.value)
    make_scorer(EvaluationConfig(tasks=folders[1:])).check()


def test_a_task_that_fails_has_none_for_a_score(folders, colour_model, caplog):
    scorer = make_scorer(EvaluationConfig(tasks=folders))
    scorer.check()
    assert scorer(colour_model) == {"first/acc1": 1.0, "second/acc1": 1.0}
    shutil.rmtree(folders[1])
    assert scorer(colour_model) == {"first/acc1": 1.0, "second/acc1": None}
    assert "second: not evaluated" in caplog.text
    shutil.rmtree(folders[0])
    with pytest.raises(DataError, match="none of 2 tasks could be evaluated"):
        scorer(colour_model)
