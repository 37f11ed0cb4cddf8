"""The page of options: made from the configs as they are, complete, and what it says is what the configs take."""

import dataclasses
import importlib.util
import re
import tomllib
from pathlib import Path
from typing import get_type_hints

import pytest

from stillroom.config_io import apply_settings, build, load_config
from stillroom.data.config import CheckConfig, DataConfig
from stillroom.errors import ConfigError
from stillroom.filter.config import FilterConfig

ROOT = Path(__file__).resolve().parents[1]


def load_script():
    spec = importlib.util.spec_from_file_location("make_options", ROOT / "docs" / "make_options.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()
PAGE = script.PAGE.read_text(encoding="utf-8")
CONFIGS = {name: (cls, needed) for name, cls, _, needed in script.SECTIONS} | {"Reading DATA": (CheckConfig, {})}


def keys_of(cls, prefix=""):
    """All keys of a config, written as the command line has them; those of `data` have their own section."""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        yield f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hints[field.name]) and (cls is CheckConfig or hints[field.name] is not DataConfig):
            yield from keys_of(hints[field.name], f"{prefix}{field.name}.")


def rows_of(section):
    """Cells of a section's tables by key, read off the page."""
    text = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)[1]
    rows = [re.split(r" (?<!\\)\| ", line[2:-2]) for line in text.splitlines() if line.startswith("| `")]
    assert all(len(cells) == 4 for cells in rows)
    assert len({cells[0] for cells in rows}) == len(rows)
    return {cells[0].strip("`"): cells[1:] for cells in rows}


def test_page_is_what_the_script_makes():
    assert script.page() == PAGE, "run python docs/make_options.py"


@pytest.mark.parametrize("section", CONFIGS)
def test_every_field_has_a_row_with_a_meaning(section):
    rows = rows_of(section)
    keys = [key for key in keys_of(CONFIGS[section][0]) if key != "data" or section != "Reading DATA"]
    assert sorted(rows) == sorted(keys)
    assert all(meaning.strip() for _, _, meaning in rows.values())


@pytest.mark.parametrize("section", CONFIGS)
def test_defaults_are_taken_as_they_stand_on_the_page(section):
    cls, needed = CONFIGS[section]
    whole = build(cls, needed, source="test")
    rows = {key: default for key, (_, default, _) in rows_of(section).items() if default and "about" not in default}
    written = [f"{key}={default.strip('`')}" for key, default in rows.items() if default != "not set"]
    assert len(written) > len(rows) / 3
    over = [f"{key}=1.0" for key in needed if key == "epochs"]  # of samples and epochs one is above 0
    assert build(cls, apply_settings(needed, [*written, *over]), source="test") == whole


@pytest.mark.parametrize(
    ("section", "key", "words"),
    [
        ("filter", "preset", '`"diht"`, `"complexity-only"`, `"off"`'),
        ("filter", "min_similarity", 'number from -1 to 1, or `"off"`'),
        ("filter", "text_side", "whole number, at least 32"),
        ("concepts", "heads.held_out", "number, between 0 and 0.5"),
        ("concepts", "heads.resampling", '`"sqrt"`, `"none"`'),
        ("concepts", "extra_stop_objects", "list of texts"),
        ("train", "model.open_clip", "table of keys"),
        ("train", "loss.alpha", "number, in [0, 1]"),
        ("train", "batch_size", "whole number, at least 2"),
        ("evaluate", "seed", "whole number"),
        ("probe", "radii", "list of numbers, at least 0"),
        ("Reading DATA", "data.max_per_shard", "whole number, at least 1"),
    ],
)
def test_values_in_words(section, key, words):
    assert rows_of(section)[key][0] == words


def test_the_filter_defaults_are_those_of_the_preset():
    rows = rows_of("filter")
    assert rows["text_overlap"][1] == "`5`"
    assert rows["language"][1] == '`"off"`'


def test_links_within_the_page_lead_somewhere():
    headings = re.findall(r"^#+ (.+)$", PAGE, re.M)
    anchors = [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
    links = re.findall(r"\]\(#([^)]+)\)", PAGE)
    assert "reading-data" in links
    assert all(anchors.count(link) == 1 for link in links)


def test_the_example_is_taken(tmp_path):
    path = tmp_path / "filter.toml"
    path.write_text(re.search(r"```toml\n(.*?)```", PAGE, re.S)[1], encoding="utf-8")
    config = load_config(FilterConfig, path=path, settings=["data.max_per_shard=1000"])
    assert (config.min_caption_chars, config.text_overlap, config.max_identical_captions) == (10, None, 100)
    assert config.min_actions == 1
    assert config.data == DataConfig(caption_column="caption", key_column="id", max_per_shard=1000)
    assert tomllib.loads(path.read_text(encoding="utf-8"))["data"]["key_column"] == "id"


def test_what_the_page_says_of_quotes_and_off_is_so():
    assert load_config(FilterConfig, settings=['data.key_column="1"']).data.key_column == "1"
    with pytest.raises(ConfigError, match="key_column"):
        load_config(FilterConfig, settings=["data.key_column=1"])
    assert load_config(FilterConfig, settings=["min_actions=off"]).min_actions is None
    with pytest.raises(ConfigError, match="max_per_shard"):
        load_config(FilterConfig, settings=["data.max_per_shard=off"])


def documented(text):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config:
        size: int = 0
        name: str = ""

    Config.__doc__ = text
    return Config


def test_meanings_go_over_several_lines():
    cls = documented("""One.

    More about it.

    Attributes:
        name: of it,
            note: still the same one.
        size: 1, 2.
    """)
    assert script.descriptions(cls) == {"size": "1, 2.", "name": "of it, note: still the same one."}
    assert script.about(cls) == "One.\n\nMore about it."


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("size: a.", r"\['name'\]"),
        ("size: a.\n        name: b.\n        other: c.", r"\['other'\]"),
        ("size: a.\n        name: b.\n        name: c.", "said twice"),
        ("size: a.\n        name:", "not 'name: meaning'"),
        ("size: a.\n        name: b.\n          c.", "not 'name: meaning'"),
        ("size: a.\n        name: b.\n\n    Raises:\n        ValueError: no.", "not 'name: meaning'"),
    ],
)
def test_a_docstring_that_does_not_fit_its_fields_is_an_error(lines, message):
    with pytest.raises(ValueError, match=message):
        script.descriptions(documented(f"One.\n\n    Attributes:\n        {lines}\n    "))


def test_a_config_without_meanings_is_an_error():
    with pytest.raises(ValueError, match="no 'Attributes:'"):
        script.descriptions(documented("One."))
