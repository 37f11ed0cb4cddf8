"""Training recipes: TOML files, chosen by name or by path; one may build on another by `base`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from stillroom.config_io import apply_settings, build, read_toml
from stillroom.errors import ConfigError
from stillroom.train.config import TrainConfig

# Of these, whoever chooses one means it instead of the others.
MODELS = ("name", "open_clip", "start_from")
LENGTHS = ("samples", "epochs")


def recipe_names(*, tiny: bool = False) -> list[str]:
    """Return the names of the bundled recipes, sorted; or "tiny/NAME", small variants of them that run in seconds."""
    folder = files(__name__).joinpath("tiny") if tiny else files(__name__)
    names = sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
    return [f"tiny/{name}" for name in names] if tiny else names


def load_recipe(name_or_path: str, settings: Sequence[str] = ()) -> TrainConfig:
    """Read a recipe with the recipes it builds on and `--set` options on top.

    A recipe's first line may be `base = "NAME"`, or a path to a TOML file, relative to the recipe's folder. What the
    recipe says goes over what its base says, key by key in tables. Where it chooses one of `model.name`,
    `model.open_clip` and `model.start_from`, or one of `samples` and `epochs`, the base's other choice goes.

    Raises:
        ConfigError: no such recipe or base, bases in a circle, or what is wrong with a key.
    """
    values = _with_base(recipe_path(name_or_path), ())
    chosen = apply_settings({}, settings)
    values = apply_settings(_make_room(values, chosen), settings)
    source = f"recipe {name_or_path} with --set" if settings else f"recipe {name_or_path}"
    return build(TrainConfig, values, source=source)


def recipe_path(name_or_path: str, folder: Path | None = None) -> Path:
    """Return the TOML file of a bundled recipe, or the path itself if it is one; relative paths start at `folder`."""
    if name_or_path in [*recipe_names(), *recipe_names(tiny=True)]:
        return Path(str(files(__name__).joinpath(f"{name_or_path}.toml")))
    path = (folder or Path()) / name_or_path
    if path.suffix == ".toml" and path.is_file():
        return path
    raise ConfigError(f"no recipe '{name_or_path}'; give a TOML file or one of: {', '.join(recipe_names())}")


def _with_base(path: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    """Return a recipe's keys over those of its base; `below` are the recipes that build on it."""
    values = read_toml(path)
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(f"{path}: 'base' is {base!r}; it must be a recipe's name or a path to a TOML file")
    try:
        place = recipe_path(base, path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: base: {error}") from None
    if place.resolve() in [path.resolve(), *(other.resolve() for other in below)]:
        raise ConfigError(f"{path}: base = '{base}' leads back to this recipe, so there is nothing to begin with")
    return _merged(_make_room(_with_base(place, (*below, path)), values), values)


def _make_room(values: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` without what `chosen` has an alternative to."""
    result = dict(values)
    if any(chosen.get(key) for key in LENGTHS):
        result = {key: value for key, value in result.items() if key not in LENGTHS}
    model, models = result.get("model"), chosen.get("model")
    if isinstance(model, Mapping) and isinstance(models, Mapping) and any(key in models for key in MODELS):
        result["model"] = {key: value for key, value in model.items() if key not in MODELS or key in models}
    return result


def _merged(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(values)
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        result[key] = _merged(below, value) if both else value  # type: ignore[arg-type]
    return result
