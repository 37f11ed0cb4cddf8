import xml.etree.ElementTree as ElementTree

import pytest

from stillroom.probe.config import METHODS
from stillroom.probe.plot import STYLES, curve_bytes, curve_figure


def points(methods=METHODS, shots=(1, 2, 4)):
    found = [{"method": "zero_shot", "shots": 0, "accuracy": 0.4, "spread": 0.0}]
    for place, method in enumerate(m for m in methods if m != "zero_shot"):
        found += [
            {"method": method, "shots": k, "accuracy": 0.4 + 0.05 * place + 0.01 * k, "spread": 0.02} for k in shots
        ]
    return found


def test_every_method_has_a_style_of_its_own():
    assert set(STYLES) == set(METHODS) - {"zero_shot"}
    assert len({style[1:] for style in STYLES.values()}) == len(STYLES)


def test_lines_start_at_the_zero_shot_point_except_from_scratch():
    axes = curve_figure(points(), chance=0.1).axes[0]
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
    assert axes.get_xscale() == "log"
    for method, (label, *_) in STYLES.items():
        assert lines[label][-1][0] == 4
        first = lines[label][0]
        assert first == (
            [1, pytest.approx(100 * lines[label][0][1] / 100)] if method == "logistic_regression" else [0.5, 40.0]
        )
    assert lines["zero-shot"] == [[0.5, 40.0]]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "1", "2", "4"]


def test_svg_and_png_are_files_of_their_kind_and_repeat():
    svg = curve_bytes(points(), "svg", title="<b>a & b</b>")
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert svg == curve_bytes(points(), "svg", title="<b>a & b</b>")
    assert curve_bytes(points(methods=("prompt_probe",)), "png").startswith(b"\x89PNG")


def test_zero_shot_alone_can_be_drawn():
    assert curve_bytes(points()[:1], "svg")
