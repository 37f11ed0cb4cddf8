"""Open a test set: a folder of one's own, or a named task's data in the format it is published in.

A folder of one's own is in CLIP_benchmark's webdataset layout (see `readers.webdataset`) or has a sub-folder of
pictures per class. Anything else that holds pairs is read as in the other stages (see `own_pairs`).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from stillroom.config_io import build
from stillroom.data.config import DataConfig
from stillroom.data.tables import TABLE_EXTENSIONS
from stillroom.errors import ConfigError, DataError
from stillroom.evaluate.items import EvalDataset
from stillroom.evaluate.names import class_names
from stillroom.evaluate.own_pairs import PAIRS, open_pairs
from stillroom.evaluate.readers.class_folders import ClassFolders, has_class_folders
from stillroom.evaluate.readers.own_files import folder_name, own_classnames, own_templates
from stillroom.evaluate.readers.webdataset import is_webdataset, open_webdataset

if TYPE_CHECKING:
    from stillroom.evaluate.tasks import Task

__all__ = ["EvalDataset", "open_dataset", "open_task"]


def open_dataset(path: Path | str, *, split: str = "test") -> EvalDataset:
    """Open a data set in CLIP_benchmark's webdataset layout, or a folder with a sub-folder of pictures per class.

    Args:
        path: the data set's folder.
        split: sub-folder with the tars; an image folder has none.

    Raises:
        DataError: nothing there, neither layout, a missing shard, or class names or templates that cannot be used.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"no data set at '{root}'; give a folder in CLIP_benchmark layout or with a folder per class")
    if is_webdataset(root, split):
        return open_webdataset(root, split)
    tars = [*root.glob("*.tar"), *(root / split).glob("*.tar")]
    if tars:
        raise DataError(
            f"{root} has tars but no {split}/nshards.txt; CLIP_benchmark layout needs it (the number of tars)"
        )
    if not has_class_folders(root):
        raise DataError(
            f"{root} is no data set: neither test/nshards.txt (CLIP_benchmark), nor a folder of pictures per class, "
            "nor tars or pictures with captions"
        )
    folders = ClassFolders().read(root)
    if len(folders.classnames) < 2:
        tables = sorted(entry.name for entry in root.iterdir() if entry.suffix.lower() in TABLE_EXTENSIONS)
        raise DataError(
            f"{root} has one folder of pictures, '{folders.classnames[0]}', and to tell classes apart takes two"
            + (f"; for the pairs in {tables[0]} give {root / tables[0]}" if tables else "")
        )
    names = own_classnames(root) or folders.classnames
    if len(names) != len(folders.classnames):
        raise DataError(f"{root / 'classnames.txt'} has {len(names)} lines for {len(folders.classnames)} class folders")
    return dataclasses.replace(folders, name=folder_name(root), classnames=names, templates=own_templates(root))


def open_task(task: Task, data_root: str | None = None, *, split: str | None = None) -> EvalDataset:
    """Open a named task's data where `tasks.locate` finds it.

    Its folder may hold the published files, which the task's reader reads, or CLIP_benchmark's webdataset layout.
    `classnames.txt` and `zeroshot_classification_templates.txt` in it take the place of the task's names and prompts;
    a folder's class names are used only by the task that it belongs to, where several tasks share its pictures.

    Args:
        task: of the list, or made of a data set's path.
        data_root: see `tasks.locate`.
        split: sub-folder with the tars, in place of the task's.

    Raises:
        ConfigError: another split of a task whose reader reads one.
        DataError: it is missing, damaged or of another kind; the message says how to obtain it.
    """
    from stillroom.evaluate.tasks import locate

    if task.reader == PAIRS:
        if split:
            raise ConfigError(f"task '{task.name}' has no split '{split}': all of {task.path} is one set")
        return open_pairs(task.path, build(DataConfig, task.parameters, source=f"task '{task.name}'"), task.name)
    root, part = locate(task, data_root), split or task.split
    if task.reader == "webdataset" or (is_webdataset(root, part) and task.owns_folder):
        dataset = open_dataset(root, split=part)
        if dataset.kind != task.kind:
            raise DataError(f"task '{task.name}' is {task.kind}, but its data at {task.path} is {dataset.kind}")
        return dataclasses.replace(dataset, name=task.name, synonyms=task.synonyms)
    if part != task.split:
        raise ConfigError(f"task '{task.name}' has no split '{part}' in its published format, only '{task.split}'")
    try:
        dataset = task.read(root)
    except DataError as error:
        raise DataError(f"{error} ({task.obtain})") from None
    names, templates = class_names(task, dataset, root)
    return dataclasses.replace(dataset, name=task.name, classnames=names, templates=templates, synonyms=task.synonyms)
