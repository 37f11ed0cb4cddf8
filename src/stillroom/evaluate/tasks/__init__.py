"""Benchmark tasks: one short versioned YAML file each, beside this module, loaded into a frozen dataclass.

The file's name is the task's name. `version` goes up when anything changes that a score depends on.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from stillroom.data.config import DataConfig
from stillroom.errors import ConfigError, DataError
from stillroom.evaluate.datasets import open_dataset
from stillroom.evaluate.items import EvalDataset, Kind, Synonyms
from stillroom.evaluate.own_pairs import PAIRS, absolute_parts, is_pairs, open_pairs
from stillroom.evaluate.readers import READERS
from stillroom.evaluate.readers.hub import hub_folder, is_hub_name

Direction = Literal["text_to_image", "image_to_text"]
Suite = Literal["bundled", "diht", "cheng"]
SUITES = get_args(Suite)
Metric = Literal[
    "acc1", "roc_auc", "mean_average_precision", "mean_average_precision_11_point", "vqa_accuracy", "hit@1"
]

# The metrics that stand for a retrieval task in tables and lists: one per direction, each listed as its own task.
RETRIEVAL_METRICS: Mapping[str, str] = {
    "text_to_image": "image_retrieval_recall@1",
    "image_to_text": "text_retrieval_recall@1",
}
_SHORT = {"text_to_image": "t2i", "image_to_text": "i2t"}
_KINDS: Mapping[str, tuple[Kind, ...]] = {
    "acc1": ("classification", "vqa"),
    "roc_auc": ("classification",),
    "mean_average_precision": ("classification",),
    "mean_average_precision_11_point": ("classification",),
    "vqa_accuracy": ("vqa",),
    "hit@1": ("open_vocabulary",),
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """One data set to be scored in one way.

    Attributes:
        name: of the file, or of the data set's folder.
        version: of the task file; 0 for a data set given by its path.
        kind: "classification", "retrieval", "vqa" or "open_vocabulary".
        title: one line for people.
        suite: the paper's benchmark that it is part of, or "bundled".
        metric: that stands for the task; retrieval has two, one per direction.
        path: of the data set; relative to a root (see `locate`), or absolute; of pairs of one's own, DATA.
        reader: "webdataset" (CLIP_benchmark's layout, or an image folder), a name of `readers.READERS`, or "pairs".
        parameters: of the reader; of "pairs", a `DataConfig`.
        split: sub-folder with the tars.
        pictures: how many there should be; None if not known. A difference is reported, not refused.
        texts: how many captions there should be, for retrieval.
        questions: how many there should be, for vqa.
        classes: how many there should be; for vqa, candidate answers, where they are always as many.
        templates: prompts; empty: those of the data set, or CLIP's plain one.
        imagenet_templates: take the 80 of CLIP instead.
        classnames: empty: those of the data set.
        names_from: list of the clip-benchmark package, for a data set without names.
        synonyms: whether a class with several names is the mean of their embeddings, or the best of their scores.
        guessing: what it scores in the metric, where that does not follow from the sizes.
        licence: of the data.
        obtain: how to get the data.
    """

    name: str
    version: int = 0
    kind: Kind
    title: str = ""
    suite: Suite | None = None
    metric: Metric = "acc1"
    path: str
    reader: str = "webdataset"
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    split: str = "test"
    pictures: int | None = None
    texts: int | None = None
    questions: int | None = None
    classes: int | None = None
    templates: tuple[str, ...] = ()
    imagenet_templates: bool = False
    classnames: tuple[str, ...] = ()
    names_from: str = ""
    synonyms: Synonyms = "mean"
    guessing: float | None = None
    licence: str = "unknown"
    obtain: str = ""

    def __post_init__(self) -> None:
        if self.kind != "retrieval" and self.kind not in _KINDS[self.metric]:
            raise ConfigError(f"task '{self.name}': metric '{self.metric}' does not go with kind '{self.kind}'")
        if self.reader not in ("webdataset", PAIRS, *READERS):
            raise ConfigError(
                f"task '{self.name}': no reader '{self.reader}'; allowed: webdataset, {', '.join(READERS)}"
            )

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that stand for this task: one, or one per direction."""
        return tuple(RETRIEVAL_METRICS.values()) if self.kind == "retrieval" else (self.metric,)

    @property
    def owns_folder(self) -> bool:
        """Whether the data's folder belongs to this task alone; tasks on the same pictures share one."""
        return Path(self.path).name == self.name or self.reader == "webdataset"

    @property
    def chance(self) -> float | None:
        """What guessing scores in `metrics`, as far as it follows from the sizes; a result says it exactly."""
        if self.kind == "retrieval":  # also with several captions a picture: n of P n captions are its own
            return None if self.pictures is None else round(1 / self.pictures, 6)
        if self.metric in ("acc1", "hit@1"):
            return None if self.classes is None else round(1 / self.classes, 6)
        return 0.5 if self.metric == "roc_auc" else self.guessing

    def read(self, root: Path) -> EvalDataset:
        """Open the data by the task's reader.

        Raises:
            ConfigError: parameters that the reader does not have.
            DataError: files that are missing or do not hold what they should.
        """
        from stillroom.config_io import build

        reader = build(READERS[self.reader], self.parameters, source=f"task '{self.name}'", prefix="parameters.")
        return reader.read(root)

    def entries(self) -> list[dict[str, Any]]:
        """Return what `stillroom tasks --json` lists: each retrieval direction is an entry of its own."""
        about: dict[str, Any] = {
            "task": self.name,
            "suite": self.suite,
            "version": self.version,
            "kind": self.kind,
            "title": self.title,
            "classes": self.classes,
            "size": self.pictures,
            "texts": self.texts,
            "questions": self.questions,
            "chance": self.chance,
            "licence": self.licence,
            "path": self.path,
            "obtain": self.obtain,
        }
        if self.kind != "retrieval":
            return [{"name": self.name, **about, "metric": self.metric}]
        return [
            {"name": f"{self.name}_{_SHORT[direction]}", **about, "direction": direction, "metric": metric}
            for direction, metric in RETRIEVAL_METRICS.items()
        ]


@cache
def list_tasks() -> tuple[Task, ...]:
    """Return all tasks of the list, sorted by name."""
    return tuple(read_task(path) for path in sorted(Path(__file__).parent.glob("*.yaml")))


def read_task(path: Path) -> Task:
    """Read a task file.

    Raises:
        ConfigError: not YAML, an unknown or missing key, or a value of the wrong kind.
    """
    import yaml

    from stillroom.config_io import build

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"task file {path}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"task file {path} holds no keys")
    missing = [key for key in ("version", "kind", "path") if key not in values]
    if missing:
        raise ConfigError(f"task file {path} lacks '{missing[0]}'")
    return build(Task, {"name": path.stem, **values}, source=str(path))


def find_task(name_or_path: str, data: DataConfig | None = None) -> Task:
    """Return a task of the list by its name or an entry's name (`x_t2i` finds `x`), or make one of a data set.

    Args:
        name_or_path: a name, the folder of a data set, "hf-hub:ORGANISATION/NAME", or DATA (pairs of one's own).
        data: how DATA is read.

    Raises:
        ConfigError: neither a known name nor a folder or DATA.
        DataError: a folder that is no data set, DATA that cannot be used (before a model is loaded or trained for it),
            or a data set on the hub that cannot be fetched.
    """
    known = list_tasks()
    for task in known:
        if name_or_path in (task.name, *(entry["name"] for entry in task.entries())):
            return task
    if not is_hub_name(name_or_path) and is_pairs(name_or_path):
        return _pairs_task(name_or_path, data or DataConfig())
    path = hub_folder(name_or_path) if is_hub_name(name_or_path) else Path(name_or_path)
    if not path.is_dir():
        names = [task.name for task in known]
        close = difflib.get_close_matches(name_or_path, names, n=2)
        meant = f"; did you mean {' or '.join(close)}?" if close else ""
        allowed = (
            f"{', '.join(names)}, a suite ({', '.join(SUITES)}), or the folder of a data set, or pairs (tars, table)"
        )
        raise ConfigError(f"no task '{name_or_path}'{meant}; allowed: {allowed}")
    dataset = open_dataset(path)
    name = name_or_path.rpartition("/")[2] if is_hub_name(name_or_path) else dataset.name
    return Task(name=name, kind=dataset.kind, path=str(path.resolve()), title=f"data set {name}")


def _pairs_task(data: str, config: DataConfig) -> Task:
    name = open_pairs(data, config).name
    parameters = dataclasses.asdict(config)
    path = absolute_parts(data)
    return Task(name=name, kind="retrieval", path=path, reader=PAIRS, parameters=parameters, title=f"pairs of {name}")


def find_tasks(names: tuple[str, ...], data: DataConfig | None = None) -> tuple[Task, ...]:
    """Return the tasks of several names, each once; a suite's name means its tasks, no name at all the whole list.

    Args:
        names: see `find_task`.
        data: how DATA is read.

    Raises:
        ConfigError: an unknown name, or two data sets whose folders or files have the same name.
        DataError: as `find_task`.
    """
    known = list_tasks()
    suites = {suite: [task for task in known if task.suite == suite] for suite in SUITES}
    tasks: dict[str, Task] = {}
    for name in names or tuple(task.name for task in known):
        for task in suites.get(name) or [find_task(name, data)]:
            if tasks.setdefault(task.name, task) != task:
                raise ConfigError(
                    f"two tasks are named '{task.name}'; rename the folder or file of one, or evaluate them apart"
                )
    return tuple(tasks.values())


def locate(task: Task, data_root: str | None = None) -> Path:
    """Return the folder of a task's data: below `data_root`, or else the current folder or this checkout.

    Raises:
        DataError: it is at none of these places; the message says how to obtain it.
    """
    checkout = Path(__file__).resolve().parents[4]
    # The current folder often is the checkout: named once then.
    roots = [Path(data_root)] if data_root is not None else list(dict.fromkeys([Path.cwd(), checkout]))
    for root in roots:
        if (root / task.path).is_dir():
            return root / task.path
    obtain = f" ({task.obtain})" if task.obtain else ""
    raise DataError(f"task '{task.name}': no data at {' or '.join(str(root / task.path) for root in roots)}{obtain}")
