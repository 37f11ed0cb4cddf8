"""Time and memory of scoring embeddings, beside the formulas in common use.

    python benchmarks/evaluate.py               # retrieval: 25,000 texts, 5,000 pictures; hit@10: 100,000 x 21,841
    python benchmarks/evaluate.py --quick       # a tenth of the texts, pictures and classes, some seconds

Retrieval is recall@1, 5 and 10 in both directions, beside CLIP_benchmark's formulation (clip_benchmark 1.6,
metrics/zeroshot_retrieval.py): the matrix of all scores and one of all positives, and for each k and direction the k
best of a batch as one-hot rows, multiplied by the positives. Hit@10 stands beside the matrix of all scores and its ten
best. Both sides must give the same numbers.

Embeddings are random: float32, width 512, texts near their pictures. Every figure comes from a process of its own:
memory is the growth of the peak resident set over a process that holds the embeddings; time is the best of the
repetitions. "CPU s" are seconds of processor time, which other work on the machine disturbs less than the clock.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from torch import Tensor

RETRIEVAL = ("one-hot", "stillroom retrieval")
HIT = ("all scores", "stillroom hit@k")
KS = (1, 5, 10)
CAPTIONS = 5  # texts a picture, as in COCO and Flickr30K
# The matrix of all scores takes 8.7 GB at full size.
LARGEST_MATRIX = 2**30


def embeddings(rows: int, columns: int, width: int, per_column: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows near columns, unit vectors, and the column of each row; made in place, for the peak's sake."""
    import numpy as np

    rng = np.random.default_rng(0)
    targets = rng.standard_normal((columns, width), dtype=np.float32)
    near = rng.standard_normal((rows, width), dtype=np.float32)
    own = np.arange(rows) // per_column % columns
    for start in range(0, rows, 500):
        part = slice(start, start + 500)
        near[part] = 6 * near[part] + targets[own[part]]
        near[part] /= np.linalg.norm(near[part], axis=1, keepdims=True)
    for start in range(0, columns, 500):
        targets[start : start + 500] /= np.linalg.norm(targets[start : start + 500], axis=1, keepdims=True)
    return near, targets, own


def one_hot_recall(texts: Tensor, images: Tensor, own: Tensor, batch: int) -> dict[str, float]:
    """Retrieval as CLIP_benchmark formulates it, written plainly."""
    import torch
    import torch.nn.functional as F

    scores_TP = texts @ images.T
    positives_TP = torch.zeros_like(scores_TP, dtype=torch.bool)
    positives_TP[torch.arange(len(texts)), own] = True

    def found(scores: Tensor, positives: Tensor, k: int) -> float:
        hits = []
        for part, right in zip(scores.split(batch), positives.split(batch), strict=True):
            one_hot = F.one_hot(part.topk(k, dim=1).indices, num_classes=scores.shape[1])  # (batch, k, candidates)
            recall = (one_hot * right[:, None]).sum(dim=(1, 2)) / right.sum(dim=1)
            hits.append(recall > 0)
        return float(torch.cat(hits).float().mean())

    metrics = {}
    for k in KS:
        metrics[f"image_retrieval_recall@{k}"] = found(scores_TP, positives_TP, k)
        metrics[f"text_retrieval_recall@{k}"] = found(scores_TP.T, positives_TP.T, k)
    return metrics


def all_scores_hit(images: Tensor, classes: Tensor, own: Tensor) -> dict[str, float]:
    """Hit@k from the matrix of all scores."""
    best = (images @ classes.T).topk(max(KS), dim=1).indices
    right = best == own[:, None]
    return {f"hit@{k}": float(right[:, :k].any(dim=1).float().mean()) for k in KS}


def case(arguments: argparse.Namespace) -> Callable[[], dict[str, float]]:
    """Return the function to time, on inputs that exist."""
    import torch

    from stillroom.evaluate.open_vocabulary import flat_hit_at_k
    from stillroom.evaluate.retrieval import retrieval_metrics

    method, rows, columns = arguments.method, arguments.rows, arguments.columns
    left, right, own = embeddings(rows, columns, arguments.width, CAPTIONS if method in RETRIEVAL else 1)
    if method == "stillroom retrieval":
        return lambda: dict(retrieval_metrics(right, left, own, KS))
    if method == "stillroom hit@k":
        positives = [(int(label),) for label in own]
        return lambda: flat_hit_at_k(left, right, positives, KS)
    tensors = [torch.from_numpy(array) for array in (left, right, own)]
    if method == "one-hot":
        return lambda: one_hot_recall(*tensors, arguments.batch)
    return lambda: all_scores_hit(*tensors)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one case in this process, the matrix library's threads warmed up."""
    import numpy as np
    import torch

    torch.ones(64, 64) @ torch.ones(64, 64)
    np.ones((64, 64), dtype=np.float32) @ np.ones((64, 64), dtype=np.float32)
    function = case(arguments)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clock, processor = [], []
    for _ in range(arguments.repeats):
        start = time.perf_counter(), time.process_time()
        scores = function()
        clock.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
    unit = 1 if sys.platform == "darwin" else 1024
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
    return {"seconds": min(clock), "processor": min(processor), "gigabytes": grown / 1e9, "scores": scores}


def measure_apart(method: str, rows: int, columns: int, options: list[str]) -> dict[str, Any]:
    """Run one case in a process of its own."""
    command = [sys.executable, __file__, "--method", method, "--rows", str(rows), "--columns", str(columns), *options]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_table(title: str, methods: tuple[str, ...], sizes: tuple[int, int], options: list[str]) -> None:
    """One line a method, with ratios to the first; a difference in a score is an error."""
    print(f"\n{title}\n{'':<22}{'s':>9}{'ratio':>7}{'CPU s':>9}{'ratio':>7}{'added GB':>10}{'ratio':>8}")
    reference: dict[str, Any] | None = None
    for method in methods:
        if method == "all scores" and sizes[0] * sizes[1] > LARGEST_MATRIX:
            gigabytes = 4 * sizes[0] * sizes[1] / 1e9
            print(f"{method:<22}  left out: {gigabytes:.1f} GB for the scores alone")
            continue
        result = measure_apart(method, *sizes, options)
        line = f"{method:<22}"
        for key, width in (("seconds", 9), ("processor", 9), ("gigabytes", 10)):
            ratio = f"{result[key] / max(reference[key], 1e-9):.2f}" if reference else ""
            line += f"{result[key]:>{width}.3f}{ratio:>{8 if key == 'gigabytes' else 7}}"
        print(line, flush=True)
        reference = reference or result
        differing = {name for name, value in result["scores"].items() if abs(value - reference["scores"][name]) > 1e-4}
        if differing:
            raise SystemExit(f"{method} and {methods[0]} differ in {', '.join(sorted(differing))}")
    print("  ".join(f"{name} {value:.3f}" for name, value in result["scores"].items()))


def main() -> None:
    """Print the tables, or with --method measure one case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--width", type=int, default=512, help="embedding width (512)")
    parser.add_argument("--batch", type=int, default=64, help="rows at a time of the one-hot form (64, its default)")
    parser.add_argument("--repeats", type=int, default=1, help="repetitions, of which the best counts (1)")
    parser.add_argument("--method", choices=RETRIEVAL + HIT, help="measure one method only, printed as JSON")
    parser.add_argument("--rows", type=int, default=2500, help="texts, or pictures of hit@k, with --method")
    parser.add_argument("--columns", type=int, default=500, help="pictures, or classes of hit@k, with --method")
    arguments = parser.parse_args()
    if arguments.method:
        print(json.dumps(measure(arguments)))
        return
    options = ["--width", str(arguments.width), "--batch", str(arguments.batch), "--repeats", str(arguments.repeats)]
    texts, pictures = (2500, 500) if arguments.quick else (25_000, 5000)
    title = f"Retrieval, both directions: {texts:,} texts, {pictures:,} pictures, width {arguments.width}"
    print_table(title, RETRIEVAL, (texts, pictures), options)
    pictures, classes = (10_000, 2184) if arguments.quick else (100_000, 21_841)
    title = f"Flat hit@{KS[-1]}: {pictures:,} pictures, {classes:,} classes, width {arguments.width}"
    print_table(title, HIT, (pictures, classes), options)


if __name__ == "__main__":
    main()
