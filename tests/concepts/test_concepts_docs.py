"""The Python of docs/concepts.md runs as it stands there, beside a small output C of a small DATA."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from stillroom.concepts.config import ConceptsConfig, HeadConfig
from stillroom.concepts.run import run
from stillroom.report.concept_rows import SORTS
from stillroom.report.concepts_page import MOST_ROWS

PAGE = (Path(__file__).parents[2] / "docs" / "concepts.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
TOP_K = 2


@pytest.fixture
def beside(tmp_path, shapes_tar, monkeypatch):
    """Stand in a folder with DATA and its output C."""
    shapes_tar.parent.rename(tmp_path / "DATA")
    config = ConceptsConfig(
        teacher="timm:test_vit.r160_in1k",
        teacher_pretrained=False,
        image_size=32,
        min_count=2,
        top_k=TOP_K,
        heads=HeadConfig(epochs=1, batch_size=8),
        precision="fp32",
        workers=1,
    )
    monkeypatch.chdir(tmp_path)
    run("DATA", config, Path("C"))


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python_blocks_run(number, beside):
    exec(compile(BLOCKS[number], f"block {number} of docs/concepts.md", "exec"), {})


def test_labels_are_read_as_the_page_says(beside):
    found: dict = {}
    exec(next(block for block in BLOCKS if "lookup" in block), found)
    assert found["ids"].shape == found["probs"].shape == (2, TOP_K)
    np.testing.assert_allclose(found["probs"].sum(axis=1), 1, atol=2e-3)
    assert found["keys"] == ["00000", "00001"]
    assert len(found["names"]) == TOP_K
    assert set(found["names"]) <= {"circle", "square", "line"}


def test_the_pages_sizes_are_those_of_the_report():
    text = " ".join(PAGE.split())
    assert f"up to {MOST_ROWS:,} rows of each kind" in text
    assert f"for up to {sum(sum(sorts.values()) for sorts in SORTS.values())} concepts" in text
