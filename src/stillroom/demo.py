"""`stillroom demo`: the whole pipeline on the bundled data, stage by stage, with a report at the end.

Two models are trained from scratch on the same number of samples: a baseline (InfoNCE on all pairs) and the recipe
(filtered pairs, HN-NCE, concept distillation). A third has the recipe's losses on a pretrained image encoder, frozen,
and is the one to use. Every stage is the one the command line runs; a second run skips what is complete.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stillroom.artifacts import read_json, write_json
from stillroom.data import DataConfig
from stillroom.errors import DataError
from stillroom.progress import clock

log = logging.getLogger("stillroom")

TRAINING_DATA = ("openclipart/train", "icons/train")
TASKS = (
    "openmoji_names",
    "openmoji_groups",
    "openmoji_subgroups",
    "openclipart_heldout_retrieval",
    "openclipart_heldout_categories",
    "icons_unseen_tabler",
    "icons_unseen_healthicons",
)
SEARCH_TASK = "openmoji_names"
# Recall at 10: small models on a thousand look-alike icons rarely have the one right picture first.
METRICS = ("acc1", "image_retrieval_recall@10", "text_retrieval_recall@10")
BASELINE, RECIPE, PRETRAINED = "infonce", "stillroom", "pretrained"
MODELS = (BASELINE, RECIPE, PRETRAINED)
STAGES = 7


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything a demo does; what is learnt from and how is the same for both sizes."""

    max_per_shard: int | None
    samples: int
    batch_size: int
    frozen_samples: int
    frozen_batch_size: int
    warmup_samples: int
    min_count: int
    head_epochs: int
    tasks: tuple[str, ...]
    probe_task: str
    shots: tuple[int, ...]
    draws: int


FULL = Size(
    max_per_shard=None,
    samples=250_000,
    batch_size=256,
    frozen_samples=300_000,
    frozen_batch_size=512,
    warmup_samples=15_000,
    min_count=15,
    head_epochs=10,
    tasks=TASKS,
    probe_task="openmoji_subgroups",
    shots=(1, 2, 4, 8, 16),
    draws=5,
)
TINY = Size(
    max_per_shard=40,
    samples=1_920,
    batch_size=64,
    frozen_samples=1_920,
    frozen_batch_size=64,
    warmup_samples=320,
    min_count=3,
    head_epochs=4,
    tasks=("openmoji_groups", "openclipart_heldout_categories"),
    probe_task="openmoji_groups",
    shots=(1, 4),
    draws=2,
)


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo ends with: a rich table of scores, and the report's path."""

    table: Any
    report: Path


def run(out: Path, *, tiny: bool = False, examples: Path | None = None, seed: int = 0) -> DemoResult:
    """Run check, filter, concepts, train, evaluate and probe on the bundled data and write `out/index.html`.

    Args:
        out: output folder; what is complete in it is skipped.
        tiny: a few hundred pairs and a minute instead of all and some minutes.
        examples: folder of the bundled data; None finds the checkout's.
        seed: of every stage.

    Raises:
        DataError: the bundled data is not there.
    """
    from stillroom.evaluate.compare import comparison_rows, table
    from stillroom.evaluate.results import read_results
    from stillroom.report.page import write_report

    started = time.monotonic()
    size = TINY if tiny else FULL
    folder = examples if examples is not None else default_examples()
    data = "::".join(str(folder / part) for part in TRAINING_DATA)
    reader = DataConfig(max_per_shard=size.max_per_shard)
    with _stage(1, "check: what is in the data"):
        _check(data, reader, out / "check.json")
    with _stage(2, "filter: which pairs to keep"):
        _filter(data, reader, out / "filter")
    with _stage(3, "concepts: what a frozen teacher sees in them"):
        _concepts(data, reader, size, seed, out)
    with _stage(4, "train: the baseline, the recipe, and the recipe on a pretrained encoder"):
        _train(data, reader, size, seed, out)
    with _stage(5, "evaluate: zero-shot, on pictures nobody trained on"):
        _evaluate(folder, size, out)
    with _stage(6, "probe: a few labelled pictures a class"):
        _probe(folder, size, seed, out / "probe")
    with _stage(7, "report"):
        report = write_report(
            out,
            data=data,
            reader=reader,
            data_root=folder.parent,
            models=MODELS,
            metrics=METRICS,
            search_task=SEARCH_TASK,
            seed=seed,
        )
    results = [read_results(out / "evaluate" / name) for name in MODELS]
    log.info("done in %s", clock(time.monotonic() - started))
    return DemoResult(table=table(comparison_rows(results, METRICS), MODELS), report=report)


def default_examples() -> Path:
    """Return `examples/` of the checkout the package is installed from, or of the current folder."""
    places = (Path(__file__).resolve().parents[2] / "examples", Path("examples").resolve())
    for place in places:
        if all((place / part).is_dir() for part in TRAINING_DATA):
            return place
    raise DataError(
        "the bundled data is not beside the package; run in a checkout of the repository, or give --examples"
    )


@contextmanager
def _stage(number: int, title: str) -> Iterator[None]:
    started = time.monotonic()
    log.info("[%d/%d] %s", number, STAGES, title)
    yield
    log.info("      %s", clock(time.monotonic() - started))


def _check(data: str, reader: DataConfig, path: Path) -> None:
    from stillroom.data.check import report_lines, run
    from stillroom.parallel import available_cores

    if not path.exists():
        write_json(path, run(data, reader, workers=available_cores()))
    for line in report_lines(read_json(path)):
        if not line.startswith("    "):  # single faults are listed in the file
            log.info("      %s", line)


def _filter(data: str, reader: DataConfig, out: Path) -> None:
    from stillroom.filter.config import FilterConfig
    from stillroom.filter.run import run
    from stillroom.filter.summary import summary_lines
    from stillroom.report.filter_page import write_filter_page

    summary = run(data, FilterConfig(**FILTER, data=reader), out)
    if not (out / "report.html").exists():
        write_filter_page(out)
    for line in summary_lines(summary):
        log.info("      %s", line)


# Names of icons and titles of drawings are no sentences: few hold a verb, and a bare "apple" is a good caption for an
# apple. So the demo asks for no action and no relation, and drops what is noise here: lettering that repeats the
# caption, and captions that stand under too many pictures to say anything about one. Thresholds of 0 drop nothing but
# have complexity and actions measured.
FILTER: dict[str, Any] = {
    "preset": "off",
    "min_complexity": 0,
    "min_actions": 0,
    "text_overlap": 5,
    # Icons are 64 pixels wide: lettering in them is searched for by the command line's default, but takes the demo's
    # longest minute to find what one in 700 has.
    "text_min_side": 65,
    "max_identical_captions": 20,
    "min_caption_chars": 3,
}


def _concepts(data: str, reader: DataConfig, size: Size, seed: int, out: Path) -> None:
    from stillroom.concepts.config import ConceptsConfig, HeadConfig
    from stillroom.concepts.run import run
    from stillroom.report.concepts_page import write_concepts_page

    config = ConceptsConfig(
        image_size=96,
        fit="pad",
        min_count=size.min_count,
        heads=HeadConfig(epochs=size.head_epochs),
        seed=seed,
        data=reader,
    )
    run(data, config, out / "concepts", keep=out / "filter")
    if not (out / "concepts" / "report.html").exists():
        write_concepts_page(out / "concepts")


def _train(data: str, reader: DataConfig, size: Size, seed: int, out: Path) -> None:
    from stillroom.train.recipes import load_recipe
    from stillroom.train.run import run

    common = [f"seed={seed}", f"cache={json.dumps(str(out / 'embeddings'))}", "device=cpu"]
    scratch = [
        f"samples={size.samples}",
        f"batch_size={size.batch_size}",
        f"optimizer.warmup_samples={size.warmup_samples}",
    ]
    config = replace(load_recipe("student_minilm", [*common, *scratch]), data=reader)
    plain = replace(config.loss, contrastive="info_nce", exclude_identical_captions=False, concept_weight=0.0)
    run(data, replace(config, loss=plain), out / "train" / BASELINE, resume=True)
    run(data, config, out / "train" / RECIPE, keep=out / "filter", concepts=out / "concepts", resume=True)
    frozen = [f"batch_size={size.frozen_batch_size}", f"samples={size.frozen_samples}"]
    config = replace(load_recipe("lite_minilm", [*common, *frozen]), data=reader)
    run(data, config, out / "train" / PRETRAINED, keep=out / "filter", concepts=out / "concepts", resume=True)


def _evaluate(examples: Path, size: Size, out: Path) -> None:
    from stillroom import load_model
    from stillroom.evaluate.config import EvaluateConfig
    from stillroom.evaluate.run import evaluate_model
    from stillroom.evaluate.tasks import find_tasks

    config = EvaluateConfig(data_root=str(examples.parent), cache=str(out / "embeddings"), batch_size=256)
    for name in MODELS:
        loaded = load_model(str(out / "train" / name))
        evaluate_model(loaded, name, find_tasks(size.tasks), config, out / "evaluate" / name)


def _probe(examples: Path, size: Size, seed: int, out: Path) -> None:
    from stillroom import load_model
    from stillroom.probe.config import ProbeConfig
    from stillroom.probe.run import probe_model

    config = ProbeConfig(
        shots=size.shots,
        draws=size.draws,
        seed=seed,
        data_root=str(examples.parent),
        cache=str(out.parent / "embeddings"),
        batch_size=256,
        # The widest balls and weakest penalties take most of the time and are rarely chosen: certify to 0.01 nats.
        tolerance=1e-2,
        max_iterations=300,
    )
    probe_model(load_model(str(out.parent / "train" / PRETRAINED)), PRETRAINED, size.probe_task, config, out)
