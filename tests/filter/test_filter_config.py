import json

import pytest

from stillroom.config_io import build, load_config
from stillroom.errors import ConfigError
from stillroom.filter.config import THRESHOLDS, FilterConfig

DIHT = {"min_complexity": 1, "min_actions": 1, "text_overlap": 5, "max_pwatermark": 0.5, "max_punsafe": 0.5}
NEVER_IN_A_PRESET = tuple(name for name in THRESHOLDS if name not in DIHT)


@pytest.mark.parametrize(("preset", "on"), [("diht", DIHT), ("complexity-only", {"min_complexity": 1}), ("off", {})])
def test_presets_turn_on_exactly_their_rules(preset, on):
    config = FilterConfig(preset=preset)
    thresholds = {name: getattr(config, name) for name in (*DIHT, *NEVER_IN_A_PRESET)}
    assert thresholds == {name: on.get(name) for name in thresholds}


def test_toml_overrides_the_preset_and_set_overrides_both(tmp_path):
    path = tmp_path / "filter.toml"
    path.write_text('preset = "diht"\nmin_actions = "off"\nmin_complexity = 2\n[data]\ncaption_column = "text"\n')
    config = load_config(FilterConfig, path=path, settings=["text_overlap=0", "max_punsafe=off", "max_pwatermark=1"])
    assert (config.min_actions, config.min_complexity, config.text_overlap) == (None, 2, 0)
    assert (config.max_punsafe, config.max_pwatermark, config.data.caption_column) == (None, 1.0, "text")


def test_none_is_off_also_where_the_preset_is_on():
    assert FilterConfig(preset="diht", min_actions=None).min_actions is None


def test_saved_config_builds_the_same_config_again():
    config = FilterConfig(preset="diht", min_actions=None, max_identical_captions=3, workers=2)
    saved = json.loads(json.dumps(config.identity()))
    assert "workers" not in saved
    assert build(FilterConfig, saved, source="test") == FilterConfig(
        preset="diht", min_actions=None, max_identical_captions=3
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"preset": "dith"},
        {"min_complexity": -1},
        {"min_complexity": 1.5},
        {"min_complexity": True},
        {"min_actions": "no"},
        {"max_punsafe": 1.5},
        {"max_punsafe": float("nan")},
        {"text_confidence": 80},
        {"text_side": 0},
        {"workers": -1},
        {"parser": ""},
        {"backend": "spark"},
        {"language": "English"},
        {"max_nsfw": "NSFW"},
        {"max_aspect_ratio": 0.5},
        {"min_similarity": 28},
        {"near_duplicate_distance": 9},
        {"near_duplicate_distance": 1.0},
        {"min_model_similarity": 0.2},
    ],
)
def test_a_value_out_of_range_is_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        FilterConfig(**wrong)
