"""How fast the filter's text rules are, beside the same spaCy pipeline called as it comes, in one run.

    python benchmarks/filter.py            # some five minutes on two cores: 20,000 captions, medians of 3 rounds
    python benchmarks/filter.py --quick    # under a minute: 4,000 captions
    python benchmarks/filter.py --memory   # some minutes: peak memory of `stillroom filter`, and on 20 times the shards

All sides get the same different captions of the bundled sets, prepared in the same way, read the same graph off what
they parse, and should come to the same decisions under the text rules of the preset diht. Ours runs as the filter does:
one process a core, each with one thread, a batch of captions at a time. spaCy as it comes (less the two exceptions of
its tokenizer that the filter takes away) runs in one process and, for fairness, in as many of its own. Rates depend on
the machine and on what else it does; the ratios, taken within each round, are what to look at. How many captions need
no parse depends on the captions: few names of icons have a verb.

With `--memory` the shards are the bundled pictures over and over under new keys, without text spotting, whose models
would hide what the rest needs; `--set NAME=VALUE` (more than once) turns on other rules.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path

from stillroom.data.source import open_data
from stillroom.filter.config import FilterConfig
from stillroom.filter.graph import CaptionGraph, caption_graph, graph_actions, graph_complexity
from stillroom.filter.measure import BATCH
from stillroom.filter.parser import graphs_that_can_pass, load_parser
from stillroom.filter.prepare import parsed_text
from stillroom.parallel import available_cores
from stillroom.records import Sample

EXAMPLES = Path(__file__).parents[1] / "examples"
SETS = ("openclipart/train", "openclipart/heldout", "icons/train")
RULES = FilterConfig(preset="diht")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
TASK = 500  # captions that a process takes at once, as a shard

Decisions = list[bool]


def samples(*, images: bool) -> Iterator[Sample]:
    """Yield the bundled pairs."""
    for name in SETS:
        for shard in open_data(str(EXAMPLES / name)):
            yield from (item for item in shard.samples(images=images) if isinstance(item, Sample))


def passes(graph: CaptionGraph | None) -> bool:
    """Whether a caption passes complexity and action."""
    if graph is None:
        return False
    complexity, actions = RULES.min_complexity or 0, RULES.min_actions or 0
    return graph_complexity(graph) >= complexity and len(graph_actions(graph)) >= actions


@cache
def parser() -> object:
    """Load the filter's pipeline, once a process."""
    return load_parser()


def start(ready: object) -> None:
    """Load what a process needs, and wait for the others."""
    list(graphs_that_can_pass(parser(), ["a dog chases a cat", "red car"], min_actions=1))  # type: ignore[arg-type]
    ready.wait()  # type: ignore[attr-defined]


def decide(captions: Sequence[str]) -> Decisions:
    """Judge captions as `stillroom filter` does, a batch at a time."""
    found: Decisions = []
    for k in range(0, len(captions), BATCH):
        batch = captions[k : k + BATCH]
        found += map(passes, graphs_that_can_pass(parser(), batch, min_actions=RULES.min_actions))  # type: ignore[arg-type]
    return found


@contextmanager
def processes(count: int) -> Iterator[Executor]:
    """Start processes like the filter's, each with one thread and the pipeline loaded."""
    context = get_context("spawn")
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ |= dict.fromkeys(THREADS, "1")
    with ProcessPoolExecutor(count, mp_context=context, initializer=start, initargs=(context.Barrier(count),)) as pool:
        list(pool.map(abs, range(count)))
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        yield pool


def by_us(pool: Executor, captions: Sequence[str]) -> Decisions:
    """Judge captions in all processes."""
    size = min(TASK, -(-len(captions) // (4 * available_cores())))  # few captions keep all processes busy, too
    tasks = [captions[k : k + size] for k in range(0, len(captions), size)]
    return [kept for part in pool.map(decide, tasks) for kept in part]


def by_pipe(nlp: object, captions: Sequence[str], *, n_process: int = 1) -> Decisions:
    """Judge captions through `nlp.pipe`."""
    docs = nlp.pipe(map(parsed_text, captions), n_process=n_process)  # type: ignore[attr-defined]
    return [passes(caption_graph(doc)) for doc in docs]


def one_by_one(nlp: object, captions: Sequence[str]) -> Decisions:
    """Judge captions by a call of the pipeline each."""
    return [passes(caption_graph(nlp(parsed_text(caption)))) for caption in captions]  # type: ignore[operator]


def text_rules(captions: list[str], rounds: int) -> None:
    """Time all sides in turn, several times, and compare their decisions."""
    import spacy

    path, cores = load_parser().path, available_cores()
    begin = time.perf_counter()
    with processes(cores) as pool:
        started = time.perf_counter() - begin
        plain, lean = spacy.load(path), spacy.load(path, exclude=["ner"])
        for nlp in (plain, lean):
            nlp.tokenizer.rules = load_parser().tokenizer.rules  # type: ignore[attr-defined,union-attr]
        few = captions[: len(captions) // 10]
        sides: dict[str, tuple[Callable[[list[str]], Decisions], list[str]]] = {
            f"stillroom, {cores} processes": (partial(by_us, pool), captions),
            "nlp.pipe as it comes": (partial(by_pipe, plain), captions),
            f"  n_process={cores}": (partial(by_pipe, plain, n_process=cores), captions),
            "  without ner": (partial(by_pipe, lean), captions),
            f"  without ner, n_process={cores}": (partial(by_pipe, lean, n_process=cores), captions),
            "nlp(caption) one by one": (partial(one_by_one, plain), few),
        }
        rates: dict[str, list[float]] = {name: [] for name in sides}
        decided: dict[str, Decisions] = {}
        for _ in range(rounds):
            for name, (work, given) in sides.items():
                begin = time.perf_counter()
                decided[name] = work(given)
                rates[name].append(len(given) / (time.perf_counter() - begin))
    report(captions, rates, decided, rounds)
    settled = sum(g is None for g in graphs_that_can_pass(load_parser(), captions, min_actions=RULES.min_actions))
    print(f"settled by their tags, without a parse: {settled / len(captions):.1%} of the captions")
    print(f"starting {cores} processes with the pipeline loaded took {started:.1f} s, once a run, not in the rates")


def report(captions: list[str], rates: dict[str, list[float]], decided: dict[str, Decisions], rounds: int) -> None:
    """Print the rate of every side, ours over it, and on how many captions it decides otherwise."""
    ours, *_ = rates
    print(f"text rules, {len(captions):,} different captions, medians of {rounds} rounds")
    print(f"  {'':<30} captions/s   ratio   decided otherwise   kept")
    for name, found in rates.items():
        ratio = statistics.median(a / b for a, b in zip(rates[ours], found, strict=True))
        other = sum(a != b for a, b in zip(decided[ours], decided[name], strict=False))
        kept = sum(decided[name]) / len(decided[name])
        speed = statistics.median(found)
        print(f"  {name:<30} {speed:10,.0f}  {ratio:6.1f}   {other:,} of {len(decided[name]):,}   {kept:6.1%}")


def memory(shards: int, pairs: int, settings: Sequence[str]) -> None:
    """Print the peak memory of `stillroom filter` on some shards and on 20 times as many."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        bundled = list(islice(samples(images=True), shards * pairs))
        peaks = []
        for times in (1, 20):
            write_shards(root / f"data{times}", islice(cycle(bundled), times * shards * pairs), pairs)
            begin = time.perf_counter()
            largest, together = peak(root / f"data{times}", root / f"out{times}", settings)
            seconds = time.perf_counter() - begin
            peaks.append((largest, together))
            print(
                f"{times * shards:5} shards, {times * shards * pairs:8,} pairs: largest process {largest:6.0f} MiB, "
                f"all together {together:6.0f} MiB, {seconds:5.0f} s"
            )
    print("ratio: " + ", ".join(f"{b / a:.3f}" for a, b in zip(*peaks, strict=True)))


def write_shards(folder: Path, pairs: Iterable[Sample], size: int) -> None:
    """Write pairs under new keys as shards of so many."""
    folder.mkdir()
    rest = enumerate(pairs)
    for number in range(sys.maxsize):
        part = list(islice(rest, size))
        if not part:
            return
        with tarfile.open(folder / f"{number:05}.tar", "w") as tar:
            for k, sample in part:
                for name, data in (("txt", sample.caption.encode()), ("png", sample.image or b"")):
                    member = tarfile.TarInfo(f"{k:09}.{name}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def peak(data: Path, out: Path, settings: Sequence[str]) -> tuple[float, float]:
    """Run the filter; the peak of its largest process, and of all at one moment (Linux: shared pages counted once)."""
    chosen = [argument for setting in ("text_overlap=off", *settings) for argument in ("--set", setting)]
    command = [sys.executable, "-m", "stillroom", "filter", str(data), "--out", str(out), *chosen]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    done = threading.Event()
    sums = [0.0]
    watch = threading.Thread(target=_watch, args=(run.pid, done, sums))
    watch.start()
    _, status, usage = os.wait4(run.pid, 0)
    run.returncode = os.waitstatus_to_exitcode(status)
    done.set()
    watch.join()
    if run.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return usage.ru_maxrss / 1024, max(sums)


def _watch(root: int, done: threading.Event, sums: list[float]) -> None:
    while not done.wait(0.2):
        sums.append(sum(map(_proportional, _family(root))) / 1024)


def _family(root: int) -> list[int]:
    """Return a process and its descendants."""
    found = [root]
    for pid in found:
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            with suppress_gone():
                found += map(int, path.read_text().split())
    return found


def _proportional(pid: int) -> int:
    """Return the KiB of a process, a page that n share counted as 1/n."""
    with suppress_gone():
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


@contextmanager
def suppress_gone() -> Iterator[None]:
    """Ignore that a process has ended."""
    try:
        yield
    except OSError:
        return


def main() -> None:
    """Compare the rates, or measure memory."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="fewer captions")
    options.add_argument("--captions", type=int, help="how many captions")
    options.add_argument("--least-chars", type=int, default=0, help="leave shorter captions out, e.g. 50")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--memory", action="store_true", help="measure peak memory instead")
    options.add_argument("--shards", type=int, default=6, help="with --memory: shards of the smaller run")
    options.add_argument("--pairs", type=int, default=500, help="with --memory: pairs of a shard")
    options.add_argument("--set", action="append", default=[], help="with --memory: a setting of the filter")
    chosen = options.parse_args()
    if chosen.memory:
        memory(chosen.shards, chosen.pairs, chosen.set)
        return
    different = sorted({s.caption for s in samples(images=False) if len(s.caption) >= chosen.least_chars})
    count = chosen.captions or (4_000 if chosen.quick else 20_000)
    text_rules(random.Random(0).sample(different, min(count, len(different))), chosen.rounds)


if __name__ == "__main__":
    main()
