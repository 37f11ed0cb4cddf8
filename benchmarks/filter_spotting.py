"""How fast text spotting is, and how often it decides as RapidOCR does, on pictures of the web's sizes.

    python benchmarks/filter_spotting.py            # 520 pictures, four minutes on 2 idle cores
    python benchmarks/filter_spotting.py --quick    # 40 pictures, half a minute
    python benchmarks/filter_spotting.py --sides    # other sizes for the detector, and how small a picture can be

Pictures are bundled drawings, one or several enlarged to a longer side of 256 to 1,024 pixels and saved as JPEG. Every
second has lettering: words of its caption, other words, or what the drawing had. "Full" is RapidOCR at its own scale
with all it found read, confidence 0.8, an overlap of 5; its decisions are taken with one thread in as many processes as
there are cores, and its rate also as it comes, in one process with all cores. Rates depend on the machine and on what
else it does; the ratio is what to look at.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from lettered_pictures import Picture, load_font, pictures
from PIL import Image, ImageDraw

from stillroom.data.images import decode_image
from stillroom.filter import reader as reader_module
from stillroom.filter.overlap import text_overlap
from stillroom.filter.reader import text_reader
from stillroom.filter.spotting import Spotter

WORDS = ("mountain", "bicycle", "garden", "birthday", "party", "coffee", "dragon", "festival", "summer", "river")


def by_cascade(picture: Picture) -> bool:
    """Decide as the filter does."""
    spotter = Spotter(reader=text_reader())
    image = decode_image(picture.data, reduce_to=2 * spotter.side)
    return (spotter.spot(image, picture.caption).overlap or 0) >= 5


@lru_cache(maxsize=2)
def rapidocr(threads: int = -1) -> Any:
    """RapidOCR with so many threads, or as it comes."""
    from rapidocr import RapidOCR

    engine = "EngineConfig.onnxruntime"
    settings = {f"{engine}.intra_op_num_threads": threads, f"{engine}.inter_op_num_threads": threads}
    return RapidOCR(params={"Global.log_level": "critical", **(settings if threads > 0 else {})})


def by_rapidocr(picture: Picture, threads: int = -1) -> bool:
    """Decide by all that RapidOCR finds in the picture at full resolution."""
    found = rapidocr(threads)(np.ascontiguousarray(np.asarray(decode_image(picture.data))[:, :, ::-1]))
    sure = [text for text, score in zip(found.txts or (), found.scores or (), strict=True) if score >= 0.8]
    return text_overlap(picture.caption, sure) >= 5


def by_one_thread(picture: Picture) -> bool:
    """Decide as `by_rapidocr`, for use in several processes."""
    return by_rapidocr(picture, threads=1)


def rate(work: Callable[[], object], amount: int, rounds: int) -> float:
    """Median units per second over several rounds."""
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return amount / statistics.median(seconds)


def compare(found: Sequence[Picture], subset: int, rounds: int) -> None:
    """Print rates, the share of equal decisions, and precision and recall against what was drawn."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    few = found[:subset]
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        pool.map(by_cascade, found[: 4 * cores], chunksize=1)  # the models load on first use
        ours = pool.map(by_cascade, found, chunksize=1)
        all_cores = rate(lambda: pool.map(by_cascade, found, chunksize=1), len(found), rounds)
        one = rate(lambda: list(map(by_cascade, few)), len(few), rounds)
        by_rapidocr(few[0])
        pairs = [
            (
                rate(lambda: pool.map(by_cascade, few, chunksize=1), subset, 1),
                rate(lambda: list(map(by_rapidocr, few)), subset, 1),
            )
            for _ in range(rounds)
        ]
        begin = time.perf_counter()
        full = pool.map(by_one_thread, found, chunksize=1)
        full_rate = len(found) / (time.perf_counter() - begin)
    mine, its = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"{len(found)} pictures, pictures/s (medians of {rounds} rounds, {cores} cores)")
    print(f"  cascade, a process for each core   {all_cores:7.1f}     one process {one:.1f}")
    print(f"  RapidOCR with one thread, likewise {full_rate:7.1f}")
    print(f"  the first {subset}: cascade {mine:.1f}, RapidOCR as it comes {its:.2f}, ratio {mine / its:.1f}")
    report(found, np.array(ours), np.array(full))


def report(found: Sequence[Picture], ours: np.ndarray, full: np.ndarray) -> None:
    """Print how two lists of decisions compare with each other and with what was drawn."""
    kinds = np.array([picture.kind for picture in found])
    known = np.array([picture.drawn is not None for picture in found])
    drawn = np.array([picture.drawn is True for picture in found])
    differ = ours != full
    right = int((differ & known & (ours == drawn)).sum())
    wrong, unknown = int((differ & known).sum()) - right, int((differ & ~known).sum())
    print(f"equal decisions {1 - differ.mean():.1%}; of {differ.sum()} others the cascade has {right} right,", end=" ")
    print(f"RapidOCR {wrong}; {unknown} are of lettering that was not drawn here")
    for name, decided in (("cascade", ours), ("RapidOCR", full)):
        hits = (decided & drawn).sum()
        precision = hits / max(1, (decided & known).sum())
        print(f"  {name:<9} precision {precision:.3f}   recall {hits / max(1, drawn.sum()):.3f}")
    for kind in dict.fromkeys(kinds):
        of = kinds == kind
        counts = (
            f"dropped by both {int((ours & full & of).sum())}, by the cascade only {int((ours & ~full & of).sum())}"
        )
        print(
            f"  lettering {kind:<8} {of.sum():4} pictures, {counts}, by RapidOCR only {int((full & ~ours & of).sum())}"
        )


class Clock:
    """Seconds and calls of named steps."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time taken."""

        def timed(*given: Any, **named: Any) -> Any:
            begin = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                self.seconds[name] += time.perf_counter() - begin
                self.calls[name] += 1

        return timed


def steps(found: Sequence[Picture]) -> None:
    """Print what each step of the cascade costs, in one process, and where pictures stop."""
    clock, stops = Clock(), Counter[str]()
    reader = text_reader()
    spotter = Spotter(
        reader=reader_module.TextReader(
            SimpleNamespace(run=clock.wrap("detector", reader._detector.run)),
            SimpleNamespace(run=clock.wrap("recogniser", reader._recogniser.run)),
            reader._characters,
        )
    )
    kept = {name: getattr(reader_module, name) for name in ("_scaled", "_regions", "_line")}
    for name, step in zip(kept, ("resize", "find boxes", "cut out pieces"), strict=True):
        setattr(reader_module, name, clock.wrap(step, kept[name]))
    decode, spot = clock.wrap("decode", decode_image), clock.wrap("all but decode", spotter.spot)
    for picture in found:
        before = clock.calls.copy()
        result = spot(decode(picture.data, reduce_to=2 * spotter.side), picture.caption)
        looks, reads = (clock.calls[step] - before[step] for step in ("detector", "recogniser"))
        look = f"look {looks}" if reads else "nothing found"
        stops[f"{look}, {'a match' if (result.overlap or 0) >= 5 else 'no match'}" if reads else look] += 1
    for name, function in kept.items():
        setattr(reader_module, name, function)
    total = clock.seconds["decode"] + clock.seconds.pop("all but decode")
    clock.seconds["the rest"] += total - sum(clock.seconds.values())
    count = len(found)
    print(f"one process, {1e3 * total / count:.1f} ms a picture, {clock.calls['recogniser'] / count:.2f} readings:")
    for name, seconds in sorted(clock.seconds.items(), key=lambda item: -item[1]):
        print(f"  {name:<15} {1e3 * seconds / len(found):6.1f} ms   {seconds / total:6.1%}")
    for name, stopped in sorted(stops.items()):
        print(f"  ends at {name:<20} {stopped:4} pictures   {stopped / count:6.1%}")


def sizes(found: Sequence[Picture]) -> None:
    """Print rate and recall with the detector looking at several sizes, and how small a picture can be."""
    print(f"first look at several longer sides, {len(found)} pictures:")
    for side in (320, 480, 640, 800):
        spotter, begin = Spotter(reader=text_reader(), side=side), time.perf_counter()
        hits = [(spotter.spot(decode_image(p.data), p.caption).overlap or 0) >= 5 for p in found if p.drawn is not None]
        speed = len(hits) / (time.perf_counter() - begin)
        drawn = [picture.drawn for picture in found if picture.drawn is not None]
        recall = sum(a and b for a, b in zip(hits, drawn, strict=True)) / sum(drawn)
        print(f"  {side:4} px  {speed:5.1f}/s   recall {recall:.3f}")
    print("words as wide as the picture that are read, by the picture's side:")
    for side in (12, 16, 20, 24, 32, 48, 64):
        print(f"  {side:4} px  {np.mean([_reads_word(word, side) for word in WORDS]):.2f}")


def _reads_word(word: str, side: int) -> bool:
    sheet = Image.new("RGB", (4 * side + 16, 4 * side + 16), "white")
    font = load_font("DejaVuSans.ttf", 4 * side / load_font("DejaVuSans.ttf", 100).getlength(word) * 100)
    ImageDraw.Draw(sheet).text((8, 2 * side), word, fill="navy", font=font, anchor="lm")
    small = sheet.resize((side, side), Image.Resampling.LANCZOS)
    return (Spotter(reader=text_reader(), min_side=0).spot(small, word).overlap or 0) >= 5


def main() -> None:
    """Draw the pictures and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=520)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="40 pictures, one round")
    parser.add_argument("--sides", action="store_true", help="also try several sizes of pictures and of the detector")
    options = parser.parse_args()
    found = pictures(40 if options.quick else options.pictures, options.seed)
    compare(found, *((10, 1) if options.quick else (40, 3)))
    steps(found)
    if options.sides:
        sizes(found)


if __name__ == "__main__":
    main()
