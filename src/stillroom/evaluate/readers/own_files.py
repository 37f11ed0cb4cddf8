"""Files that anyone may put beside a data set: `classnames.txt` and `zeroshot_classification_templates.txt`."""

from __future__ import annotations

from pathlib import Path

from stillroom.errors import DataError
from stillroom.evaluate.items import DEFAULT_TEMPLATES

CLASSNAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"


def own_classnames(root: Path) -> tuple[str, ...]:
    """Return the lines of `classnames.txt`, line i + 1 for label i; nothing where there is no such file."""
    names = tuple(line.strip() for line in read_if_there(root / CLASSNAMES).splitlines())
    empty = [number for number, name in enumerate(names, start=1) if not name]
    if empty:
        raise DataError(f"{root / CLASSNAMES}: line {empty[0]} is empty; line i + 1 names the class of label i")
    return names


def own_templates(root: Path, default: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the lines of the templates' file, or the default, or else CLIP's plain prompt."""
    file = root / TEMPLATES
    templates = tuple(line.strip() for line in read_if_there(file).splitlines() if line.strip())
    for template in templates:
        if "{c}" not in template and "{}" not in template:
            raise DataError(f"{file}: '{template[:60]}' has no {{c}} to put the class name in")
    return templates or default or DEFAULT_TEMPLATES


def read_if_there(path: Path) -> str:
    """Return the text of a file, or "" where there is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}") from None


def folder_name(root: Path) -> str:
    """Return the name of a data set's folder."""
    return root.resolve().name or "data"
