"""Time and memory of finding near-duplicate pictures among many hashes, the rule over the whole set alone.

    python benchmarks/near_duplicates.py                             # a million pairs at distances 0, 2, 4 and 8
    python benchmarks/near_duplicates.py --pairs 4000000 --distances 4

Hashes are made up: seven tenths at random, a tenth equal to one of these, a tenth three bit flips from one, a tenth all
alike, as blank pictures are. Each distance runs in a process of its own on one core; memory is that process's peak, and
what it is before the search begins.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stillroom.filter.near_duplicates import mark_near_duplicates
from stillroom.filter.verdicts import SCHEMA

ROWS = 10_000


def made_up_hashes(pairs: int, seed: int = 0) -> np.ndarray:
    """Return (pairs,) uint64."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**64, pairs * 7 // 10, dtype=np.uint64)
    near = base[rng.integers(0, len(base), pairs // 10)].copy()
    for _ in range(3):
        near ^= np.uint64(1) << rng.integers(0, 64, len(near)).astype(np.uint64)
    alike = np.zeros(pairs - len(base) - 2 * len(near), np.uint64)
    hashes = np.concatenate([base, near, base[: len(near)], alike])
    rng.shuffle(hashes)
    return hashes


def write_verdicts(folder: Path, hashes: np.ndarray) -> list[Path]:
    """Write tables of verdicts in which every pair is kept so far and has a hash."""
    folder.mkdir()
    paths = []
    for start in range(0, len(hashes), ROWS):
        part = hashes[start : start + ROWS]
        columns = {field.name: pa.nulls(len(part), field.type) for field in SCHEMA}
        columns |= {"key": pa.array([f"{row:09d}" for row in range(len(part))]), "picture_hash": pa.array(part)}
        columns |= {"kept": pa.array([True] * len(part)), "reasons": pa.array([[]] * len(part), pa.list_(pa.string()))}
        paths.append(folder / f"{start // ROWS:06d}.parquet")
        pq.write_table(pa.table(columns, schema=SCHEMA), paths[-1])
    return paths


def peak_megabytes() -> float:
    """Return the most memory this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def search(folder: Path, first: list[Path], distance: int) -> None:
    """Run the rule once, and print what it took."""
    before, begin = peak_megabytes(), time.perf_counter()
    out = folder / f"distance-{distance}"
    final = [out / path.name for path in first]
    dropped = mark_near_duplicates(first, final, out / "t", names=[path.stem for path in first], distance=distance)
    seconds = time.perf_counter() - begin
    print(
        f"distance {distance}: {seconds:7.1f} s, {dropped / (len(first) * ROWS):6.1%} dropped, "
        f"peak {peak_megabytes():,.0f} MB ({before:,.0f} MB before)",
        flush=True,
    )


def main() -> None:
    """Make the tables, then run each distance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1_000_000, help="a multiple of 10,000")
    parser.add_argument("--distances", type=int, nargs="+", default=[0, 2, 4, 8])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = write_verdicts(folder / "first", made_up_hashes(options.pairs))
        print(f"{options.pairs:,} pairs")
        for distance in options.distances:
            process = multiprocessing.get_context("spawn").Process(target=search, args=(folder, first, distance))
            process.start()
            process.join()


if __name__ == "__main__":
    main()
