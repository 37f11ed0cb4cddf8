"""Write `docs/options.md`: every key that a command's `--set` and TOML file take, read off the config dataclasses.

Run from the root of a checkout: `python docs/make_options.py`. Keys, types and defaults are the fields'; meanings
are their docstrings'; limits are what a config itself says of a value it refuses.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from stillroom.concepts.config import ConceptsConfig
from stillroom.config_io import apply_settings, build
from stillroom.data.config import CheckConfig, DataConfig
from stillroom.errors import ConfigError
from stillroom.evaluate.config import EvaluateConfig
from stillroom.filter.config import OFF, THRESHOLDS, FilterConfig
from stillroom.probe.config import ProbeConfig
from stillroom.train.config import TrainConfig

PAGE = Path(__file__).resolve().parent / "options.md"
EXAMPLE = """\
preset = "diht"
min_caption_chars = 10
text_overlap = "off"            # this rule is off: no picture is searched for lettering
max_identical_captions = 100

[data]                          # tables come last: what stands below belongs to them
caption_column = "caption"
key_column = "id"
"""
HEAD = f"""# Options

Every key that `--set` and a TOML file take, by command. `docs/make_options.py` makes this page from the code. What a
command takes besides (`--out`, `--keep`, ...) is in `stillroom COMMAND --help`; what lies behind the options is on the
commands' own pages.

On the command line an option is `--set key=value`, once for each; in a file the keys are TOML, and `--config FILE`
reads it. `--set` goes over the file. `train` has no `--config`: its RECIPE is the file. Say this is `filter.toml`:

```toml
{EXAMPLE}```

It is used so, here on the first 1,000 pairs of each shard only:

    stillroom filter pairs.csv --out F --config filter.toml --set data.max_per_shard=1000

- A dot is a table: `--set data.key_column=id` is `key_column = "id"` under `[data]`.
- Text needs quotes in a file, and with `--set` only where it would be read as something else: `'data.key_column="1"'`.
- A list is `[1, 2, 4]` or `["a", "b"]`; put it in the shell's quotes: `--set 'shots=[1, 2, 4]'`.
- **not set**, as a default, means that the key is left out; nothing can be written for it. (In Python it is `None`.)
- `"off"` turns a rule of the filter off. It is for the keys that say so, no others; 0 is a threshold like any other.
- An unknown key, a wrong type or a value out of range ends the command with a line that names the key.
"""
# Command, its config, where its page and its own options are, what a config cannot be built without.
SECTIONS: tuple[tuple[str, type, str, Mapping[str, Any]], ...] = (
    (
        "filter",
        FilterConfig,
        "See [filter](filter.md). Defaults are those with the preset diht. `--measure-all`, `--strict` and\n"
        "`--backend` are short for the options of that name. With `--reuse F`, what decides the result is as in F,\n"
        "unless it is given.",
        {},
    ),
    ("concepts", ConceptsConfig, "See [concepts](concepts.md).", {}),
    (
        "train",
        TrainConfig,
        "See [train](train.md), also for `base`, which a recipe may begin with. The bundled recipes set many of these\n"
        "keys; `--dry-run` prints what holds in the end.",
        {"model": {"name": "ViT-B-32"}, "epochs": 1.0},
    ),
    ("evaluate", EvaluateConfig, "See [evaluate](evaluate.md). `--tasks a,b` is short for `tasks`.", {}),
    ("probe", ProbeConfig, "See [probe](probe.md).", {}),
)
DATA = (
    "The same keys for `check`, `filter`, `concepts` and `train`, and for tasks of `evaluate` that are pairs of\n"
    "your own. See [data](data.md)."
)
TABLE = "\n| key | value | default | meaning |\n|---|---|---|---|\n"
WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text"}
WRONG = {int: -1, float: -1.0, str: "??"}  # what a config with limits refuses, saying what it allows
ALLOWED = r"(it must (?:be|lie) |it (?=needs)|allowed: |give .*numbers? (?:of )?|[^;]* needs (?=at least))"


def descriptions(cls: type) -> dict[str, str]:
    """The meaning of each field, from the docstring's `Attributes:`, on one line each.

    Raises:
        ValueError: a field that is not described, a description without a field, or lines that are neither.
    """
    _, found, block = inspect.getdoc(cls).partition("\nAttributes:\n")  # type: ignore[union-attr]
    if not found:
        raise ValueError(f"{cls.__name__} has no 'Attributes:'")
    texts: dict[str, str] = {}
    for line in filter(str.strip, block.splitlines()):
        start = re.fullmatch(r" {4}(\w+): (\S.*)", line)
        if start and start[1] not in texts:
            texts[start[1]] = start[2]
        elif re.match(r" {8}\S", line) and texts:
            texts[next(reversed(texts))] += f" {line.strip()}"
        else:
            raise ValueError(f"{cls.__name__}: not 'name: meaning', or said twice: {line!r}")
    names = [field.name for field in dataclasses.fields(cls)]
    if wrong := set(names) ^ set(texts):
        raise ValueError(f"{cls.__name__}: described and no field, or the other way round: {sorted(wrong)}")
    return {name: texts[name] for name in names}


def type_words(hint: Any) -> str:
    """A field's type in plain words. None is not among them: no key can be set to it."""
    of = [choice for choice in get_args(hint) if choice not in (type(None), Ellipsis)]
    origin = get_origin(hint)
    if origin is Literal:
        return ", ".join(f"`{json.dumps(choice)}`" for choice in of)
    if origin in (Union, types.UnionType):
        return " or ".join(map(type_words, of))
    if origin in (tuple, list) and len(of) == 1:
        return f"list of {type_words(of[0])}" + ("s" if of[0] in (int, float, str) else "")
    return "table of keys" if origin is Mapping else WORDS[hint]


def allowed_words(root: type, key: str, hint: Any, needed: Mapping[str, Any]) -> str:
    """What a key may be: its type, and what the config says of a value that it refuses, if it has limits."""
    words = type_words(hint)
    of = [choice for choice in get_args(hint) if choice is not type(None)] or [hint]
    if of[0] not in WRONG:
        return words
    wrong = [WRONG[of[0]]] if get_origin(hint) is tuple else WRONG[of[0]]
    try:
        build(root, apply_settings(needed, [f"{key}={json.dumps(wrong)}"]), source="trial")
    except ConfigError as error:
        said = re.search(rf"\b{key.split('.')[-1]} is [^;]*; {ALLOWED}(.*)", str(error))
        if said and said[1] == "allowed: ":
            return ", ".join(f"`{json.dumps(word)}`" for word in said[2].split(", "))
        return f"{words}, {said[2]}" if said else words
    return words


def value_words(value: Any) -> str:
    """A default as TOML has it; of a long fraction, about."""
    if value is None or value is dataclasses.MISSING:
        return "not set"
    long = isinstance(value, float) and len(repr(value)) > 8
    return f"about `{value:.3f}`" if long else f"`{json.dumps(value)}`"


def row(
    root: type, key: str, hint: Any, field: dataclasses.Field[Any], needed: Mapping[str, Any]
) -> tuple[str, str, str]:
    """Key, value and default of a field, as they stand in its table."""
    if root is FilterConfig and key in THRESHOLDS:
        value = getattr(FilterConfig(), key)
        words = f'{THRESHOLDS[key].words.removeprefix("a ")}, or `"{OFF}"`'
        return f"`{key}`", words, value_words(OFF if value is None else value)
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return f"`{key}`", allowed_words(root, key, hint, needed), value_words(default)


def tables(cls: type, root: type, needed: Mapping[str, Any], *, prefix: str = "") -> str:
    """The table of a config, then those of the configs within it under headings; `data` has a section of its own."""
    hints, meanings, within = get_type_hints(cls), descriptions(cls), ""
    text = f"\n{about(cls)}\n\n| key | value | default | meaning |\n|---|---|---|---|\n"
    for field in dataclasses.fields(cls):
        key, hint = f"{prefix}{field.name}", hints[field.name]
        if hint is DataConfig:
            cells = f"`{key}`", "[a table of keys](#reading-data)", ""
        elif dataclasses.is_dataclass(hint):
            cells = f"`{key}`", f"[a table of keys](#{key.replace('.', '')})", ""
            within += f"\n### `{key}`\n" + tables(hint, root, needed, prefix=f"{key}.")  # type: ignore[arg-type]
        else:
            cells = row(root, key, hint, field, needed)
        shown = [cell.replace("|", "\\|") for cell in (*cells, meanings[field.name])]
        text += f"| {' | '.join(shown)} |\n"
    return text + within


def about(cls: type) -> str:
    """What a config's docstring says before its attributes."""
    return inspect.getdoc(cls).partition("\nAttributes:\n")[0].strip()  # type: ignore[union-attr]


def page() -> str:
    """The page's text."""
    parts = [HEAD]
    parts += [f"\n## {name}\n\n{where}\n" + tables(cls, cls, needed) for name, cls, where, needed in SECTIONS]
    return "".join([*parts, f"\n## Reading DATA\n\n{DATA}\n", tables(DataConfig, CheckConfig, {}, prefix="data.")])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
