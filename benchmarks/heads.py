"""Memory and time of the concept heads: from stored features and captions to two classifiers and pseudo-labels.

    python benchmarks/heads.py            # a million pictures of 1,280 features, 10,000 + 2,000 concepts; 6 GB of disk
    python benchmarks/heads.py --quick    # 50,000 pictures only

Features are drawn at random, captions name 1 to 3 objects and up to 2 attributes, frequent and rare ones as in real
captions (Zipf), and one caption in each shard of 10,000 names 60 objects. Every figure comes from a process of its own
that does what `stillroom concepts` does once captions are parsed and features are stored: it counts the vocabularies,
reads the features, trains both heads for one epoch, measures them, and labels one shard. "plain" is the same training
the short way, on the first 50,000 pictures: all features in memory as float32, targets as a dense matrix. "memory /
plain" is what is added to a process with torch, divided by what the plain way would add for so many pictures. Peak
memory is the largest resident set; it counts the pages of the mapped features, which the system may drop at need.
"""

from __future__ import annotations

import argparse
import json
import resource
import string
import subprocess
import sys
import tempfile
import time
from functools import cache
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from stillroom.artifacts import StageOutput

DIM, ROWS, SIZES = 1_280, 10_000, {"objects": 10_000, "attributes": 2_000}
NAMED = {"objects": (1, 4), "attributes": (0, 3)}  # how many of a kind a caption names: from, below
MOST = 60  # objects that the first caption of a shard names: about what the characters that are parsed can hold
FEW = 50_000


def write_stages(folder: Path, pictures: int) -> None:
    """Write the parsed captions and the features of so many pictures, as the stage's own parts."""
    import pyarrow as pa

    from stillroom.artifacts import StageWriter

    writers = {
        name: StageWriter(folder / name, stage=f"concepts-{name}", config={}, inputs={}, seed=None)
        for name in ("parsed", "features")
    }
    rng, names = np.random.default_rng(0), [f"{number:05d}" for number in range(pictures // ROWS)]
    modifiers = pa.list_(pa.struct([("name", pa.string()), ("object", pa.string()), ("place", pa.int32())]))
    for name in names:
        keys = pa.array([f"{row:09d}" for row in range(ROWS)])
        named = {kind: draw_names(rng, kind) for kind in SIZES}
        captions = [f"{name} {row} " + " ".join(words) for row, words in enumerate(named["objects"])]
        columns = {"key": keys, "caption": captions, **named, "modifiers": pa.array([[]] * ROWS, modifiers)}
        writers["parsed"].write_shard(name, pa.table(columns))
        values = pa.array(rng.standard_normal(ROWS * DIM, np.float32).astype(np.float16))
        features = pa.FixedSizeListArray.from_arrays(values, DIM)
        writers["features"].write_shard(name, pa.table({"key": keys, "features": features}))
    writers["parsed"].finish({"pairs": pictures}, shards=names, timings={})
    writers["features"].finish({"feature_dim": DIM, "pictures": pictures}, shards=names, timings={})


def draw_names(rng: np.random.Generator, kind: str) -> list[list[str]]:
    """Draw the names of a kind in each caption of a shard: the n-th most frequent one in proportion to 1 / n."""
    (least, below), words = NAMED[kind], vocabulary(kind)
    edges = np.cumsum(1 / np.arange(1, SIZES[kind] + 1))
    ranks = np.searchsorted(edges, rng.random((ROWS, below)) * edges[-1])
    counts = rng.integers(least, below, ROWS)
    drawn = [set(row[:count]) for row, count in zip(ranks.tolist(), counts, strict=True)]
    if kind == "objects":
        drawn[0] = set(rng.choice(SIZES[kind], MOST, replace=False).tolist())
    return [[words[rank] for rank in sorted(row)] for row in drawn]


@cache
def vocabulary(kind: str) -> list[str]:
    """Return words made up for all concepts of a kind: its first letter and four more."""
    letters = string.ascii_lowercase
    return [kind[0] + "".join(word) for word in islice(product(letters, repeat=4), SIZES[kind])]


def ours(parsed: StageOutput, features: StageOutput, scratch: Path, *, epochs: int) -> float:
    """Do what the stage does with stored parts; return the seconds of the count."""
    from stillroom.concepts.config import ConceptsConfig, HeadConfig
    from stillroom.concepts.counting import make_vocabularies
    from stillroom.concepts.features import resolve_precision
    from stillroom.concepts.labels import fit_heads, label_shard
    from stillroom.concepts.vocabulary import Concept

    config = ConceptsConfig(
        min_count=1, heads=HeadConfig(epochs=epochs), device="cpu", precision=resolve_precision("auto", "cpu")
    )
    began = time.perf_counter()
    counted = make_vocabularies(parsed, config)
    seconds = time.perf_counter() - began
    vocabularies = {}
    for kind, concepts in counted.items():  # of few pictures some concepts are missing, but the heads stay as large
        known = {concept.name for concept in concepts}
        rest = [Concept(name=name, count=0, examples=()) for name in vocabulary(kind) if name not in known]
        vocabularies[kind] = [*concepts, *rest]
        assert len(vocabularies[kind]) == SIZES[kind]
    heads, _, _ = fit_heads(parsed, features, vocabularies, config, scratch)
    label_shard(features.shard(features.shards[0]), heads, config.top_k)
    return seconds


def plain(parsed: StageOutput, features: StageOutput, *, epochs: int) -> None:
    """Train both heads as a script would that holds everything."""
    import torch
    import torch.nn.functional as F

    from stillroom.concepts.features import fixed_lists, resolve_precision

    inputs = np.concatenate([fixed_lists(table, "features") for _, table in features.tables(["features"])])
    stored = torch.from_numpy(inputs.astype(np.float32))
    bf16 = resolve_precision("auto", "cpu") == "bf16"
    for kind, size in SIZES.items():
        target, ids = torch.zeros(len(stored), size), {name: number for number, name in enumerate(vocabulary(kind))}
        rows = [names for _, table in parsed.tables([kind]) for names in table[kind].to_pylist()]
        for row, names in enumerate(rows):
            for name in names:
                target[row, ids[name]] = 1 / len(names)
        head = torch.nn.Linear(DIM, size)
        optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)
        for _ in range(epochs):
            for part in torch.randperm(len(stored)).split(512):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    logits = head(stored[part])
                F.cross_entropy(logits.float(), target[part]).backward()
                optimizer.step()


def measure(method: str, folder: Path, epochs: int) -> dict[str, float]:
    """Run one method in this process."""
    import torch  # noqa: F401 - a process that holds it is where counting begins

    from stillroom.artifacts import open_stage

    parsed, features = (open_stage(folder / name, f"concepts-{name}") for name in ("parsed", "features"))
    unit = 1 if sys.platform == "darwin" else 1024
    began, before, counting = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0
    if method == "ours":
        counting = ours(parsed, features, folder / "scratch", epochs=epochs)
    else:
        plain(parsed, features, epochs=epochs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = time.perf_counter() - began
    gigabytes = {"peak": peak * unit / 1e9, "added": (peak - before) * unit / 1e9}
    return {"seconds": seconds, "counting": counting, **gigabytes}


def measure_apart(method: str, folder: Path, epochs: int) -> dict[str, float]:
    """Run one method in a process of its own."""
    command = [sys.executable, __file__, "--measure", method, str(folder), "--epochs", str(epochs)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{method}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Print the table, or with --measure one measurement as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{FEW:,} pictures only")
    parser.add_argument("--pictures", type=int, default=1_000_000, help=f"a multiple of {ROWS:,} (1,000,000)")
    parser.add_argument("--epochs", type=int, default=1, help="passes over the pictures (1)")
    parser.add_argument("--measure", nargs=2, metavar=("METHOD", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure[0], Path(arguments.measure[1]), arguments.epochs)))
        return
    print(f"{DIM:,} features, {SIZES['objects']:,} objects and {SIZES['attributes']:,} attributes, ", end="")
    print(f"epochs: {arguments.epochs}\n")
    print("| | pictures | peak GB | added GB | seconds | of these counting | memory / plain |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    reference = None
    for pictures in dict.fromkeys((FEW, FEW if arguments.quick else arguments.pictures)):
        with tempfile.TemporaryDirectory() as place:
            write_stages(Path(place), pictures)
            for method in ("plain", "ours") if pictures == FEW else ("ours",):
                found = measure_apart(method, Path(place), arguments.epochs)
                reference = reference or found
                # What plain would add at this size: both its arrays grow with the pictures.
                ratio = found["added"] / (reference["added"] * pictures / FEW)
                times = (
                    f"{found['seconds']:.0f} | {found['counting']:.0f}"
                    if found["counting"]
                    else f"{found['seconds']:.0f} |"
                )
                memory = f"{found['peak']:.2f} | {found['added']:.2f}"
                print(f"| {method} | {pictures:,} | {memory} | {times} | {ratio:.3f} |", flush=True)


if __name__ == "__main__":
    main()
