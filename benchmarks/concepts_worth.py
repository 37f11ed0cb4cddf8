"""What concept distillation is worth on the bundled data, with a student from scratch: seven arms, the same five seeds.

    python benchmarks/concepts_worth.py --work W --prepare   filter, teacher, heads and pseudo-labels, once, into W
    python benchmarks/concepts_worth.py --work W --screen    one seed: weight, k, place of the heads, on validation
    python benchmarks/concepts_worth.py --work W             every arm and seed that has no result yet, then render
    python benchmarks/concepts_worth.py --render             table and plot from the stored results

All arms see the pairs that the demo's filter keeps, in one order, with the same augmentation and starting weights. One
caption in twenty is set apart with its pairs for validation: neither students nor concept heads learn from them.
Settings are chosen there; the arms are scored on the demo's test tasks, which chose nothing. A run is stored as soon as
it is done and not done again, so the study can be stopped, or shared: a second process with the arms and seeds in
reverse order meets the first in the middle (with --threads 1 on two cores).
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from concepts_arms import Arm, Setting, evaluate, everything_once, prepare, train

from stillroom import demo
from stillroom.artifacts import read_json, versions, write_json

ROOT = Path(__file__).resolve().parents[1]
BEGIN = "<!-- from here on written by benchmarks/concepts_worth.py -->"
END = "<!-- up to here written by benchmarks/concepts_worth.py -->"
SCREEN_SEED = 100  # none of the study's
# Of Okabe and Ito, told apart with every kind of colour vision.
COLORS, MARKERS = ("#56B4E9", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#D55E00"), "osv^PD"
CLEARLY = 1.0  # points of the mean of validation's two scores
Result = dict[str, Any]

KINDS = ("objects", "attributes")
ARMS = {
    "contrastive": Arm(title="InfoNCE alone"),
    "objects": Arm(title="+ objects", kinds=("objects",)),
    "both": Arm(title="+ objects and attributes", kinds=KINDS),
    # The most probable concept with probability 1: the same labels, their softness taken away.
    "hard": Arm(title="both, hard labels", kinds=KINDS, k=1),
    "plain": Arm(title="both, heads without resampling", kinds=KINDS, labels="concepts_plain"),
    # Not what stillroom has: where a student that is thrown out of shape by its labels would keep its embedding.
    "before": Arm(title="both, heads before the projection", kinds=KINDS, heads_on="features"),
    # The rival without captions: the student predicts the teacher's 1,280 features, loss 1 - cosine.
    "features": Arm(title="+ teacher's features (cosine)", kinds=("objects",), features=True),
}
SCREEN = {
    "contrastive": (Setting(),),
    "both": (
        Setting(),
        Setting(weight=0.5),
        Setting(weight=2.0),
        Setting(k=5),
        Setting(heads_on="features"),
    ),
    # 1 - cosine is a smaller number than a cross-entropy over hundreds of classes: the rival may have a larger weight.
    "features": (Setting(), Setting(weight=4.0), Setting(weight=16.0), Setting(weight=4.0, centred=True)),
}


def main() -> None:
    """Prepare, screen, run or render."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for filter, features, labels and embeddings (0.3 GB)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "concepts_worth", help="folder of the results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "concepts.md", help="page that holds the section")
    parser.add_argument("--prepare", action="store_true", help="only make the data ready")
    parser.add_argument("--screen", action="store_true", help="one seed of the settings, scored on validation")
    parser.add_argument("--render", action="store_true", help="from the stored results, without training")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--samples", type=int, default=100_000, help="pairs that a student sees, repeats counted")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if not options.render:
        if options.work is None:
            parser.error("give --work, or --render")
        torch.set_num_threads(options.threads)
        prepare(options.work, options.threads)
        if options.prepare:
            return
        run_all(jobs(options), options)
    render(options.out, options.page)


# ---- the study -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Job:
    """One model to train and score, and the file its result goes to."""

    arm: str
    setting: Setting
    seed: int
    tasks: tuple[str, ...]
    path: Path


def jobs(options: argparse.Namespace) -> list[Job]:
    """Return the screen's or the study's models, seed by seed, so that a study cut short has whole seeds."""
    out = options.out
    if options.screen:
        tasks = (str(options.work / "validation"),)
        return [
            Job(arm=arm, setting=one, seed=SCREEN_SEED, tasks=tasks, path=out / "screen" / f"{arm}-{number}.json")
            for arm in options.arms
            for number, one in enumerate(SCREEN.get(arm, ()))
        ]
    chosen = choose(load(out / "screen"))
    return [
        Job(arm=arm, setting=chosen(arm), seed=seed, tasks=demo.TASKS, path=out / f"{arm}-seed{seed}.json")
        for seed in options.seeds
        for arm in options.arms
    ]


def run_all(todo: Sequence[Job], options: argparse.Namespace) -> None:
    """Carry out what has no result yet; a result of other options is an error, not to be mixed with new ones."""
    for job in todo:
        if job.path.exists():
            found = read_json(job.path)
            if (found["samples"], found["setting"]) != (options.samples, asdict(job.setting)):
                raise SystemExit(f"{job.path} is of other samples or settings; delete it or give another --out")
    todo = [job for job in todo if not job.path.exists()]
    seconds: list[float] = []
    with everything_once():
        for number, job in enumerate(todo):
            if job.path.exists():  # by another process meanwhile
                continue
            began = time.monotonic()
            loaded, log = train(
                ARMS[job.arm],
                job.setting,
                options.work,
                seed=job.seed,
                samples=options.samples,
                threads=options.threads,
            )
            trained = time.monotonic()
            scores = evaluate(loaded, job.tasks, options.threads)
            seconds.append(time.monotonic() - began)
            result = {"arm": job.arm, "seed": job.seed, "samples": options.samples, "setting": asdict(job.setting)}
            result |= {"scores": scores, "log": log, "versions": versions(), "threads": options.threads}
            result["seconds"] = {
                "train": round(trained - began, 1),
                "evaluate": round(seconds[-1] - trained + began, 1),
            }
            write_json(job.path, result)
            left = statistics.mean(seconds) * (len(todo) - number - 1) / 60
            mean = 100 * statistics.mean(scores.values())
            print(
                f"{number + 1}/{len(todo)} {job.path.stem}: mean {mean:.2f}, {result['seconds']}, {left:.0f} min left",
                flush=True,
            )


def load(folder: Path) -> list[Result]:
    """Read the results of a folder, in the order of the arms and seeds."""
    found = [read_json(path) for path in sorted(folder.glob("*.json"))]
    return sorted(found, key=lambda result: (list(ARMS).index(result["arm"]), result["seed"]))


def choose(screened: Sequence[Result]) -> Callable[[str], Setting]:
    """Return from an arm to its setting: the default, or what is clearly better on validation than that."""

    def chosen(arm: str) -> Setting:
        default = Setting()
        tried = "features" if ARMS[arm].features else "both"  # arms of concepts share what `both` chose
        scores = {Setting(**one["setting"]): mean_score(one) for one in screened if one["arm"] == tried}
        if not ARMS[arm].kinds or not scores:
            return default
        best = max(scores, key=lambda setting: scores[setting])
        taken = best if scores[best] >= scores[default] + CLEARLY else default
        return replace(taken, heads_on=ARMS[arm].heads_on)

    return chosen


def mean_score(result: Result) -> float:
    """Mean of a result's scores, percent."""
    return 100 * statistics.mean(result["scores"].values())


# ---- table and plot ------------------------------------------------------------------------------------------------


def render(out: Path, page: Path) -> None:
    """Write the section between its marks in the page, and the plot; a page without marks gets the section printed."""
    results = load(out)
    if not results:
        print("no results of the study yet")
        print("\n".join(screen_table(load(out / "screen"))))
        return
    text = "\n".join([*section(results), "", *screen_table(load(out / "screen"))]).rstrip()
    plot(results, out / "worth.png")
    before, begins, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, ends, after = rest.partition(END)
    if begins and ends:
        page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")
    print(text)


def by_arm(results: Sequence[Result]) -> dict[str, dict[int, Result]]:
    """Return arm -> seed -> result."""
    return {arm: {one["seed"]: one for one in results if one["arm"] == arm} for arm in ARMS}


def differences(
    ours: dict[int, Result], theirs: dict[int, Result], value: Callable[[Result], float] = mean_score
) -> list[float]:
    """Return ours minus theirs, for each seed that both have."""
    return [value(ours[seed]) - value(theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]


def score(task: str, result: Result) -> float:
    """Return one score in percent."""
    return 100 * float(result["scores"][task])


def section(results: Sequence[Result]) -> list[str]:
    """Write the arms' means with their paired differences, and the arms' scores on every task."""
    arms = {arm: found for arm, found in by_arm(results).items() if found}
    tasks = list(results[0]["scores"])
    lines = [
        f"{results[0]['samples']:,} samples a student; mean and sample standard deviation over the seeds, in percent.",
        "Differences are between students of one seed; in brackets the seeds in which they are above 0.",
        "",
        f"| arm | weight | k | heads on | seeds | mean of {len(tasks)} scores | minus the first | minus the third |",
        "|---|---:|---:|---|---:|---:|---:|---:|",
    ]
    for arm, found in arms.items():
        cells = [
            figure_of(differences(found, arms.get(base, {}))) if base != arm else "" for base in ("contrastive", "both")
        ]
        mean = figure_of([mean_score(one) for one in found.values()], sign="")
        lines.append(f"| {ARMS[arm].title} | {describe(arm, found)} | {len(found)} | {mean} | {' | '.join(cells)} |")
    lines += ["", "| task | " + " | ".join(ARMS[arm].title for arm in arms) + " |", "|---|" + "---:|" * len(arms)]
    for task in tasks:
        cells = [figure_of([score(task, one) for one in found.values()], sign="") for found in arms.values()]
        lines.append(f"| {task_title(task)} | {' | '.join(cells)} |")
    return lines


def describe(arm: str, found: dict[int, Result]) -> str:
    """Return the cells weight, k and place of the heads; all seeds of an arm have the same."""
    setting = next(iter(found.values()))["setting"]
    if not ARMS[arm].kinds:
        return " | | "
    labels = "" if ARMS[arm].features else str(ARMS[arm].k or setting["k"])
    return f"{setting['weight']:g} | {labels} | {setting['heads_on']}"


def figure_of(values: Sequence[float], *, sign: str = "+") -> str:
    """Mean and spread; for differences also in how many seeds they are above 0."""
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    above = f" ({sum(value > 0 for value in values)}/{len(values)})" if sign else ""
    return f"{statistics.mean(values):{sign}.2f}{spread}{above}"


def task_title(task: str) -> str:
    """Turn "task/metric" into words."""
    name, metric = task.split("/")
    short = {
        "acc1": "accuracy",
        "image_retrieval_recall@10": "text to image R@10",
        "text_retrieval_recall@10": "image to text R@10",
    }
    return f"{name.replace('_', ' ')}, {short[metric]}"


def screen_table(screened: Sequence[Result]) -> list[str]:
    """Write what was tried on validation."""
    if not screened:
        return []
    lines = ["| tried on validation, one seed | weight | k | heads on | text to image R@10 | image to text R@10 |"]
    lines.append("|---|---:|---:|---|---:|---:|")
    for one in screened:
        arm, setting = ARMS[one["arm"]], one["setting"]
        title = arm.title + (", centred" if setting["centred"] else "")
        cells = [f"{setting['weight']:g}", "" if arm.features else str(setting["k"]), setting["heads_on"]]
        scores = [f"{100 * one['scores'][f'validation/{metric}']:.1f}" for metric in demo.METRICS[1:]]
        lines.append(f"| {title} | {' | '.join([*(cells if arm.kinds else ['', '', '']), *scores])} |")
    return lines


def plot(results: Sequence[Result], path: Path) -> None:
    """Draw what each arm adds to InfoNCE alone: the mean score with a mark a seed, and every task with its spread."""
    from matplotlib.figure import Figure

    arms = by_arm(results)
    base, tasks = arms.pop("contrastive"), list(results[0]["scores"])
    arms = {arm: found for arm, found in arms.items() if found.keys() & base.keys()}
    if not arms:
        return
    figure = Figure(figsize=(10, 6.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    for row, found in enumerate(arms.values()):
        color, seeds = COLORS[row], differences(found, base)
        left.scatter(seeds, [row] * len(seeds), color=color, marker=MARKERS[row], alpha=0.5, s=26)
        left.plot([statistics.mean(seeds)] * 2, [row - 0.3, row + 0.3], color=color, linewidth=2.5)
        each = [differences(found, base, partial(score, task)) for task in tasks]
        spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in each]
        # Arms side by side within a task, so that none hides another.
        places = [place + (row - (len(arms) - 1) / 2) * 0.8 / len(arms) for place in range(len(tasks))]
        marks = {"color": color, "marker": MARKERS[row], "markersize": 4, "linestyle": "none", "elinewidth": 0.7}
        right.errorbar([statistics.mean(values) for values in each], places, xerr=spread, **marks)
    counts = {len(found.keys() & base.keys()) for found in arms.values()}
    left.set_yticks(range(len(arms)), [ARMS[arm].title for arm in arms])
    left.set_title("mean of all scores: a mark a seed, a bar their mean", fontsize=9)
    right.set_yticks(range(len(tasks)), [task_title(task) for task in tasks])
    right.set_title(f"each score: mean and deviation, {min(counts)} seeds", fontsize=9)
    for place in range(1, len(tasks)):
        right.axhline(place - 0.5, color="#dddddd", linewidth=0.6)
    for axes in (left, right):
        axes.axvline(0, color="#555555", linewidth=0.8)
        axes.invert_yaxis()
        axes.set_xlabel("points above InfoNCE alone", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    for label, color in zip(left.get_yticklabels(), COLORS, strict=False):
        label.set_color(color)
    figure.savefig(path, dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
