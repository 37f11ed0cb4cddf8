"""What it costs in training to find the pseudo-labels of a batch by (shard, key), beside the step that needs them.

    python benchmarks/join.py             # some four minutes on 2 cores: tables of 1 and 10 million pairs, 1 GB of disk
    python benchmarks/join.py --quick     # some two minutes: a million pairs, shorter runs

First the look-ups alone: pairs in the order of training (8 lanes, windows of 16,384 and of student_minilm's 200,000
pairs), shards of 10,000 pairs, both kinds of concepts, k = 10, batches of 256. A batch costs the median of look-ups in
what is in memory, and its part of reading shards. Then real runs: two recipes at batch 256 on bundled drawings with
labels at random, every look-up and every read of a shard's labels timed in place. The share of a step is that of the
mean look-up of one epoch with its reads: the median look-up in memory, and the time of all reads divided by the batches
of the data. These data have all their labels read before the first step, and labels of up to two million pairs stay in
memory, so more epochs have a lower share. Medians, because other work on the machine stretches single batches
twentyfold. The trainer prepares a batch while the one before is computed, so on a GPU a look-up is hidden if it is
shorter than the step; the share is of the step all the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from stillroom.artifacts import StageWriter
from stillroom.concepts.join import PseudoLabels, ShardLabels, load_pseudo_labels
from stillroom.concepts.vocabulary import Concept, format_vocabulary, vocabulary_digest

BATCH, K, SIZES, ROWS = 256, 10, {"objects": 10_000, "attributes": 2_000}, 10_000
DRAWINGS = Path(__file__).parents[1] / "examples" / "openclipart" / "train"
# Pairs a second of ViT-B/32 at 224 px on one data-centre GPU of 2020: a round figure that we assume, not measured here.
VIT_B32 = 2_500


@cache
def label_columns(rows: int) -> dict[str, pa.Array]:
    """Labels at random for one shard."""
    rng, columns = np.random.default_rng(0), {}
    for kind, size in SIZES.items():
        probs = -np.sort(-rng.dirichlet(np.full(K, 0.3), rows), axis=1)
        for name, values in (("ids", rng.integers(0, size, (rows, K), np.uint32)), ("probs", probs.astype(np.float16))):
            columns[f"{kind[:-1]}_{name}"] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), K)
    return columns


def write_labels(folder: Path, shards: Sequence[tuple[str, list[str]]]) -> PseudoLabels:
    """Write a finished output of `stillroom concepts` for shards of the given names and keys, and open it."""
    writer = StageWriter(folder, stage="concepts", config={}, inputs={}, seed=None)
    for name, keys in shards:
        writer.write_shard(name, pa.table({"key": pa.array(keys), **label_columns(len(keys))}))
    summary = {}
    for kind, size in SIZES.items():
        vocabulary = [Concept(name=f"{kind} {number}", count=1, examples=()) for number in range(size)]
        (folder / f"{kind}.csv").write_bytes(format_vocabulary(vocabulary))
        summary[kind] = {"size": size, "digest": vocabulary_digest(vocabulary)}
    writer.finish(
        {"vocabulary": summary, "heads": dict.fromkeys(SIZES)}, shards=[name for name, _ in shards], timings={}
    )
    return load_pseudo_labels(folder)


def timed_reads() -> list[float]:
    """Return a list to which the seconds of every read of a shard's labels are added from now on."""
    reads: list[float] = []
    plain = PseudoLabels.shard

    def shard(labels: PseudoLabels, name: str) -> ShardLabels | None:
        known, begin = name in labels._held, time.perf_counter()
        found = plain(labels, name)
        if not known:
            reads.append(time.perf_counter() - begin)
        return found

    PseudoLabels.shard = shard  # type: ignore[method-assign]
    return reads


def look_up(folder: str, pairs: int, window: int, batches: int) -> dict[str, float]:
    """Time look-ups in the order of training, over `batches` batches from the beginning of an epoch."""
    from stillroom.train.lanes import Order
    from stillroom.train.memory import step_slots

    reads, labels = timed_reads(), load_pseudo_labels(Path(folder))
    order = Order(counts=(ROWS,) * (pairs // ROWS), batch_size=BATCH, lanes=8, shuffle=window, seed=0)
    names, warm = list(labels.stage.shards), []
    for slots, _ in step_slots(order, range(8), 0, batches):
        shards = [names[slot // ROWS] for slot in slots.tolist()]
        keys = [f"{slot % ROWS:09d}" for slot in slots.tolist()]
        known, begin = len(reads), time.perf_counter()
        labels.lookup(shards, keys)
        if len(reads) == known:
            warm.append(time.perf_counter() - begin)
    found, read = statistics.median(warm), statistics.median(reads)
    return {"found": found, "read": read, "batch": found + read * len(reads) / batches}


def train(recipe: str, steps: int) -> dict[str, float]:
    """Run the trainer on the bundled drawings.

    Returns:
        seconds: of a step and of a look-up in memory, medians of the last two thirds; of all reads of labels together;
        their number; and the batches in the data.
    """
    from stillroom.data.source import open_data
    from stillroom.train.loop import Trainer
    from stillroom.train.recipes import load_recipe
    from stillroom.train.run import run

    reads, spent, ends, plain_lookup, plain_step = timed_reads(), [], [], PseudoLabels.lookup, Trainer.step

    def lookup(*given: object) -> object:
        known, begin = len(reads), time.perf_counter()
        found = plain_lookup(*given)  # type: ignore[arg-type]
        if len(reads) == known:
            spent.append(time.perf_counter() - begin)
        return found

    PseudoLabels.lookup = lookup  # type: ignore[method-assign, assignment]
    Trainer.step = lambda *given: (plain_step(*given), ends.append(time.perf_counter()))[0]  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as place:
        shards = {
            shard.name: [sample.key for sample in shard.samples(images=False)] for shard in open_data(str(DRAWINGS))
        }
        write_labels(Path(place) / "labels", list(shards.items()))
        settings = (f"batch_size={BATCH}", f"samples={steps * BATCH}", "checkpoint_samples=1000000000", "device=cpu")
        run(str(DRAWINGS), load_recipe(recipe, settings), Path(place) / "run", concepts=Path(place) / "labels")
    pairs = sum(map(len, shards.values()))
    medians = {"step": np.diff(ends[steps // 3 :]), "found": spent[len(spent) // 3 :]}
    seconds = {name: statistics.median(values) for name, values in medians.items()}
    return {**seconds, "read": sum(reads), "reads": len(reads), "batches": pairs / BATCH}


def apart(*arguments: str) -> dict[str, float]:
    """Run one measurement in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print both tables, or with --measure one measurement as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a million pairs, and half the steps")
    parser.add_argument("--measure", nargs="+", metavar="WHAT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        what, place, *numbers = arguments.measure
        print(json.dumps((look_up if what == "look_up" else train)(place, *map(int, numbers))))
        return
    print(f"Look-ups, batch {BATCH}\n\n| pairs | window | in memory ms | read a shard ms | batch ms | ", end="")
    print(f"of ViT-B/32 | 2 % at pairs/s |\n|{7 * '---:|'}")
    for pairs in (1_000_000,) if arguments.quick else (1_000_000, 10_000_000):
        with tempfile.TemporaryDirectory() as place:
            keys = [f"{row:09d}" for row in range(ROWS)]
            write_labels(Path(place) / "labels", [(f"{number:05d}", keys) for number in range(pairs // ROWS)])
            for window in (16_384, 200_000):
                batches = 4_000 if pairs > 1_000_000 else pairs // BATCH
                found = apart("--measure", "look_up", f"{place}/labels", str(pairs), str(window), str(batches))
                row = f"| {pairs:,} | {window:,} | {1e3 * found['found']:.2f} | {1e3 * found['read']:.1f}"
                each = found["batch"]
                row = f"{row} | {1e3 * each:.2f} | {each * VIT_B32 / BATCH:.2%} | {0.02 * BATCH / each:,.0f} |"
                print(row, flush=True)
    steps = 30 if arguments.quick else 60
    print(f"\nReal steps, batch {BATCH}, CPU\n\n| recipe | step ms | look-up in memory ms | reads of shards | ", end="")
    print(f"read a shard ms | mean look-up ms | of a step |\n|---|{6 * '---:|'}")
    for recipe in ("tiny/student_minilm", "student_minilm"):
        found = apart("--measure", "train", recipe, str(steps))
        mean = found["found"] + found["read"] / found["batches"]
        row = f"| `{recipe}` | {1e3 * found['step']:.1f} | {1e3 * found['found']:.2f} | {found['reads']} in "
        row += f"{found['batches']:.0f} batches | {1e3 * found['read'] / found['reads']:.1f} | {1e3 * mean:.2f}"
        print(f"{row} | {mean / found['step']:.2%} |", flush=True)


if __name__ == "__main__":
    main()
