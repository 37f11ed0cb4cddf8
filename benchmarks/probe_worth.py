"""What the probe is worth on three tasks, with a trained run: stored results, a plot and the section of docs/probe.md.

    python benchmarks/probe_worth.py demo/train/pretrained    score, store, draw and write the section
    python benchmarks/probe_worth.py --render                 draw and write the section from the stored results
    python benchmarks/probe_worth.py --digits FOLDER          only write scikit-learn's digits as an image folder

The tasks are OpenMoji's subgroups, the held-out Open Clip Art categories (both bundled) and scikit-learn's digits,
which are written as pictures first. Scoring takes a few minutes on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
TITLES = {
    "openmoji_subgroups": "OpenMoji subgroups",
    "openclipart_heldout_categories": "held-out Open Clip Art categories",
    "digits": "scikit-learn's digits",
}
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
BEGIN = "<!-- from here on written by benchmarks/probe_worth.py -->"
END = "<!-- up to here written by benchmarks/probe_worth.py -->"
Curve = dict[str, Any]


def main() -> None:
    """Score, store, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", help="folder of a trained run, or a model's name")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "probe_worth", help="folder of the stored results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "probe.md", help="page that holds the section")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument(
        "--cache", type=Path, help="folder that keeps pictures and embeddings; default: a temporary one"
    )
    parser.add_argument("--render", action="store_true", help="from the stored results, without a model")
    parser.add_argument("--digits", type=Path, help="write the digits to this folder and stop")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.digits:
        write_digits(options.digits)
        return
    if not options.render:
        if not options.run:
            parser.error("give the folder of a trained run, or --render")
        with tempfile.TemporaryDirectory() as temporary:
            score(options.run, options.cache or Path(temporary), options.out, options.draws)
    curves = load(options.out)
    (options.out / "worth.png").write_bytes(plot(curves))
    page = options.page.read_text(encoding="utf-8")
    options.page.write_text(with_section(page, section(curves)), encoding="utf-8")
    print(section(curves))


def write_digits(folder: Path) -> None:
    """Write scikit-learn's 1,797 scans of 8 x 8 pixels as a folder per class, dark on white, 120 x 120 pixels."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (ink, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        pixels = np.pad(255 - np.round(ink * 255 / 16), 1, constant_values=255).astype(np.uint8)
        path = folder / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((120, 120), Image.Resampling.BICUBIC).convert("RGB").save(path)
    (folder / "classnames.txt").write_text("\n".join(DIGITS) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("{c}\n")


def score(run: str, work: Path, out: Path, draws: int) -> None:
    """Draw the curve of every task with a model and store it, without the names of the classes, as OUT/TASK.json."""
    from stillroom import load_model
    from stillroom.probe.config import ProbeConfig
    from stillroom.probe.run import probe_model

    write_digits(work / "digits")
    loaded = load_model(run)
    weights = Path(run) / "open_clip_model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:16] if weights.exists() else None
    config = ProbeConfig(draws=draws, data_root=str(ROOT), cache=str(work / "embeddings"))
    out.mkdir(parents=True, exist_ok=True)
    for task in TITLES:
        place = str(work / "digits") if task == "digits" else task
        with tempfile.TemporaryDirectory() as folder:
            curve = probe_model(loaded, Path(run).name, place, config, Path(folder) / "curve")
        stored = {**curve, "task": task, "weights_sha256": digest}
        stored["short_classes"] = {shots: len(names) for shots, names in curve["short_classes"].items()}
        (out / f"{task}.json").write_text(to_json(stored))


def to_json(curve: Curve) -> str:
    """A line per point, so that a rerun can be read as a difference."""
    head = {key: value for key, value in curve.items() if key != "points"}
    points = ",\n".join("  " + json.dumps(point, sort_keys=True) for point in curve["points"])
    return json.dumps(head, sort_keys=True)[:-1] + ', "points": [\n' + points + "\n]}\n"


def load(out: Path) -> list[Curve]:
    """Read the stored curves in the order of `TITLES`."""
    return [json.loads((out / f"{task}.json").read_text()) for task in TITLES]


def plot(curves: list[Curve]) -> bytes:
    """Draw the curves side by side, as PNG: a panel a task, each from 0 to a top of its own."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(4.4 * len(curves), 5.4), layout="constrained")
    title = (
        "Few-shot accuracy, mean and standard deviation over draws; methods side by side, axes end at different values"
    )
    drawn.suptitle(title, fontsize=11)
    panels = drawn.subplots(1, len(curves), squeeze=False)[0]
    for axes, curve in zip(panels, curves, strict=True):
        _panel(axes, curve)
    panels[0].set_ylabel("accuracy on the test pictures, %")
    handles, names = panels[0].get_legend_handles_labels()
    drawn.legend(handles, names, frameon=False, fontsize=10, loc="outside lower center", ncols=len(names))
    sink = io.BytesIO()
    drawn.savefig(sink, format="png", dpi=150, metadata={"Software": None})
    return sink.getvalue()


def _panel(axes: Any, curve: Curve) -> None:
    from matplotlib.ticker import NullLocator

    from stillroom.probe.plot import GREY, STYLES

    by = {(point["method"], point["shots"]): point for point in curve["points"]}
    shots = sorted({number for _, number in by if number})
    # a log axis has no 0: zero-shot stands one doubling before the first
    origin, zero, chance = shots[0] / 2, 100 * by["zero_shot", 0]["accuracy"], 100 * curve["chance"]
    highest = 0.0
    for place, (method, (label, color, marker)) in enumerate(STYLES.items()):
        points = [by[method, number] for number in shots]
        # Side by side, where methods that are as good would hide each other; without lines, which would look shifted.
        x = [number * 2 ** (0.17 * (place - (len(STYLES) - 1) / 2)) for number in shots]
        means, spreads = [100 * p["accuracy"] for p in points], [100 * p["spread"] for p in points]
        highest = max(highest, *(mean + spread for mean, spread in zip(means, spreads, strict=True)))
        bar = {"elinewidth": 1.3, "linestyle": "", "markersize": 5.5}
        axes.errorbar(x, means, spreads, color=color, marker=marker, label=label, **bar)
    for number in shots[::2]:
        axes.axvspan(number / 2**0.5, number * 2**0.5, color="#f3f3f3", zorder=0)
    axes.plot([origin], [zero], marker="*", markersize=12, color="#000000", zorder=6)
    top, last = 10 * math.ceil((highest + 1) / 10), shots[-1] * 2**0.5
    lines = (("zero-shot", zero, (0, (4, 3)), True), ("chance", chance, ":", zero - chance > top / 15))
    for name, level, style, above in lines:
        axes.axhline(level, color=GREY, linewidth=1, linestyle=style, zorder=1)
        text, side = f"{name} {level:.1f}", "bottom" if above else "top"
        axes.text(last / 1.05, level, text, ha="right", va=side, fontsize=9, color=GREY)
    axes.set_xscale("log", base=2)
    axes.set_xticks([origin, *shots], ["0", *map(str, shots)])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(origin / 2**0.5, last)
    axes.set_ylim(0, top)
    axes.set_xlabel("pictures per class")
    axes.set_title(f"{TITLES[curve['task']]}, {curve['classes']} classes", loc="left", fontsize=11)
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def section(curves: list[Curve]) -> str:
    """Write the tables and what they say, in Markdown."""
    return "\n".join(line for curve in curves for line in [*table(curve), "", *verdict(curve), ""]).rstrip()


def table(curve: Curve) -> list[str]:
    """Accuracies in percent with their spread, and the paired differences of the probe."""
    from stillroom.probe.plot import STYLES

    by = {(point["method"], point["shots"]): point for point in curve["points"]}
    shots = sorted({number for _, number in by if number})
    zero = by["zero_shot", 0]["accuracy"]
    lines = [
        f"**{TITLES[curve['task']]}**: {curve['classes']} classes, {curve['pool_pictures']:,} pictures to draw shots "
        f"from, {curve['test_pictures']:,} test pictures, {curve['draws']} draws. Zero-shot {100 * zero:.1f}%, chance "
        f"{100 * curve['chance']:.1f}%.",
        "",
        "| pictures per class | " + " | ".join(map(str, shots)) + " |",
        "|---|" + "---:|" * len(shots),
    ]
    used = [by["prompt_probe", number]["pictures"] / curve["classes"] for number in shots]
    if any(mean < number for mean, number in zip(used, shots, strict=True)):
        lines.append("| on average, where classes have fewer | " + " | ".join(f"{mean:.3g}" for mean in used) + " |")
    for method, (label, *_) in STYLES.items():
        cells = [_figure(by[method, number]["accuracy"], by[method, number]["spread"]) for number in shots]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    for label, other in (("probe minus zero-shot", None), ("probe minus from scratch", "logistic_regression")):
        cells = [_figure(*paired(by, number, other), sign="+") for number in shots]
        lines.append(f"| *{label}* | " + " | ".join(cells) + " |")
    return lines


def paired(by: dict[tuple[str, int], Any], shots: int, other: str | None) -> tuple[float, float]:
    """Mean and sample standard deviation over draws of the probe's accuracy minus another's; None: zero-shot."""
    probe = by["prompt_probe", shots]["accuracies"]
    theirs = by[other, shots]["accuracies"] if other else by["zero_shot", 0]["accuracies"]
    differences = [ours - own for ours, own in zip(probe, theirs, strict=True)]
    return statistics.mean(differences), statistics.stdev(differences) if len(differences) > 1 else 0.0


def verdict(curve: Curve) -> list[str]:
    """Whether the probe is at least zero-shot within the spread, and above from scratch at 1 to 4 shots."""
    by = {(point["method"], point["shots"]): point for point in curve["points"]}
    shots = sorted({number for _, number in by if number})
    below = []
    for number in shots:
        mean, spread = paired(by, number, None)
        if mean < -spread:
            below.append(str(number))
    first = f"fails at {', '.join(below)}" if below else "holds at every number of shots"
    few = [(number, *paired(by, number, "logistic_regression")) for number in shots if number <= 4]
    words = [f"at {number} {_above(mean, spread)}" for number, mean, spread in few]
    zero, single = by["zero_shot", 0]["accuracy"], statistics.mean(by["logistic_regression", shots[0]]["accuracies"])
    return [
        f"- At least zero-shot, within the spread: {first}.",
        f"- Above logistic regression from scratch, on average over the draws: {'; '.join(words)}.",
        f"- The prompts alone ({100 * zero:.1f}%) are worth {'less' if zero < single else 'more'} than {shots[0]} "
        f"picture per class without them ({100 * single:.1f}%).",
    ]


def _above(mean: float, spread: float) -> str:
    return ("yes" if mean > 0 else "no") + (" (within the spread)" if abs(mean) <= spread else "")


def _figure(mean: float, spread: float, *, sign: str = "") -> str:
    return f"{100 * mean:{sign}.1f} ± {100 * spread:.1f}"


def with_section(page: str, text: str) -> str:
    """Put the section between its marks."""
    before, begins, rest = page.partition(BEGIN)
    _, ends, after = rest.partition(END)
    if not (begins and ends):
        raise SystemExit(f"the page has no lines '{BEGIN}' and '{END}' to write between")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


if __name__ == "__main__":
    main()
