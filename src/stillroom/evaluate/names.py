"""Class names and prompts of a named task, and a check that their order is that of the data.

In this order: `classnames.txt` and `zeroshot_classification_templates.txt` in the data's folder; what the task file
states; what the data set's own files say. A few data sets have codes or numbers for classes: for these, names are read
from the `clip-benchmark` package if it is installed (its lists only: none of its code runs).
"""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from stillroom.errors import DataError, MissingDependencyError
from stillroom.evaluate.items import EvalDataset
from stillroom.evaluate.readers.own_files import CLASSNAMES, own_classnames, own_templates

if TYPE_CHECKING:
    from stillroom.evaluate.tasks import Task


def class_names(task: Task, dataset: EvalDataset, root: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (class names, templates) of a task's data set as its reader opened it.

    Raises:
        DataError: another number of names than classes, or names in another order.
        MissingDependencyError: the data set has no names of its own, and there is no other source of them.
    """
    if dataset.kind == "retrieval":
        return (), ()
    if dataset.kind == "vqa":
        return (), task.templates
    templates = own_templates(root, _templates(task))
    given, source = (own_classnames(root), root / CLASSNAMES) if task.owns_folder else ((), Path())
    if not given and task.classnames:
        given, source = task.classnames, Path(f"{task.name}.yaml")
    if not given and task.names_from:
        given, source = _clip_benchmark(task.names_from), Path("clip-benchmark")
    if not given:
        return dataset.classnames, templates
    check_order(given, dataset.classnames, str(source))
    return given, templates


def check_order(given: tuple[str, ...], own: tuple[str, ...], source: str) -> None:
    """Compare names from elsewhere with those that the data has.

    Names may be worded differently; what must not be is a name that belongs to another class of the data.

    Raises:
        DataError: another number of names, or class i is given the name of the data's class j.
    """
    if len(given) != len(own):
        raise DataError(f"{source} has {len(given):,} class names; the data has {len(own):,} classes")
    places: dict[str, int] = {}
    for place, name in enumerate(own):
        places.setdefault(_plain(name), place)
    for place, name in enumerate(given):
        other = places.get(_plain(name), place)
        if other != place and _plain(own[place]) != _plain(name):
            raise DataError(
                f"{source} is in another order than the data: its name {place + 1} is '{name}', "
                f"which the data has as class {other + 1}"
            )


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _templates(task: Task) -> tuple[str, ...]:
    if not task.imagenet_templates:
        return task.templates
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{c}") for template in OPENAI_IMAGENET_TEMPLATES)


def _clip_benchmark(key: str) -> tuple[str, ...]:
    """Return a list of class names of the `clip-benchmark` package."""
    spec = find_spec("clip_benchmark")
    if spec is None or not spec.submodule_search_locations:
        purpose = (
            f"naming the classes of '{key}', which its files only number, if there is no {CLASSNAMES} beside them,"
        )
        raise MissingDependencyError("clip-benchmark", "benchmark", purpose)
    path = Path(next(iter(spec.submodule_search_locations))) / "datasets" / "en_classnames.json"
    try:
        names = json.loads(path.read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{path} has no names for '{key}'; write {CLASSNAMES} beside the data") from None
    return tuple(str(name) for name in names)
