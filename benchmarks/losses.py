"""Time and memory of the losses, forward and backward, beside the dense forms.

    python benchmarks/losses.py                     # up to 32,768 pairs; some minutes, 9 GB for the dense forms
    python benchmarks/losses.py --quick             # up to 4,096 pairs, under a minute
    python benchmarks/losses.py --bf16-products     # ours with bf16_products, the dense forms under the same switch

Every figure comes from a process of its own: memory is the peak resident set over what was resident when the inputs
were made, gradients of the inputs included; time is the best of the repetitions. "CPU s" are seconds of processor
time, which other work on the machine disturbs less than the clock. "ids" are caption ids, two pairs to a caption, as
the trainer's default leaves them out of each other's negatives.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

CONTRASTIVE = ("dense InfoNCE", "dense HN-NCE", "info_nce", "hard_negative_nce", "hard_negative_nce, ids")
DISTILLATION = ("dense soft labels", "self_distillation", "self_distillation, ids", "transport_distillation")
CONCEPTS = ("dense soft targets", "concept_distillation")
CONCEPT_COUNT, LABELS_PER_SAMPLE = 10_000, 10
# The dense HN-NCE takes 34 GB for 32,768 pairs, so the dense forms stop before.
LARGEST_DENSE = 16_384


def dense_info_nce(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """InfoNCE as PyTorch code usually has it."""
    import torch
    import torch.nn.functional as F

    logits = scale * image @ text.T
    labels = torch.arange(len(image))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def dense_hard_negative_nce(
    image: Tensor, text: Tensor, scale: Tensor, *, alpha: float = 1.0, beta: float = 0.25
) -> Tensor:
    """HN-NCE on the whole matrix, in the log domain."""
    import torch

    logits = scale * image @ text.T
    diagonal = logits.diagonal()
    own = torch.eye(len(logits), dtype=torch.bool)
    negatives = logits.masked_fill(own, -math.inf)
    total = logits.new_zeros(())
    for dim in (1, 0):
        log_sum = ((1 + beta) * negatives).logsumexp(dim) - (beta * negatives).logsumexp(dim)
        log_sum = log_sum + math.log(len(logits) - 1)
        total = total + (torch.logaddexp(math.log(alpha) + diagonal, log_sum) - diagonal).mean()
    return total / 2


def dense_soft_labels(
    image: Tensor, text: Tensor, teacher_image: Tensor, teacher_text: Tensor, scale: Tensor, teacher_scale: float
) -> Tensor:
    """KL to the teacher's softmax as PyTorch code usually has it."""
    import torch
    import torch.nn.functional as F

    student = scale * image @ text.T
    with torch.no_grad():
        teacher = teacher_scale * teacher_image @ teacher_text.T
    pairs = ((student, teacher), (student.T, teacher.T))
    return sum(F.kl_div(s.log_softmax(1), t.softmax(1), reduction="batchmean") for s, t in pairs) / 2  # type: ignore[return-value]


def unit_rows(n: int, width: int) -> Tensor:
    """Random (n, width) rows of length 1, made without a second tensor of that size."""
    import torch

    rows = torch.randn(n, width)
    return rows.div_(torch.linalg.vector_norm(rows, dim=1, keepdim=True))


def contrastive_case(
    method: str, n: int, width: int, options: dict[str, Any]
) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """The loss to time and the leaves whose gradients it fills."""
    import torch

    from stillroom.train.losses import hard_negative_nce, info_nce

    image, text = (unit_rows(n, width).requires_grad_() for _ in range(2))
    scale = torch.tensor(1 / 0.07, requires_grad=True)
    losses: dict[str, Callable[..., Tensor]] = {
        "dense InfoNCE": dense_info_nce,
        "dense HN-NCE": dense_hard_negative_nce,
        "info_nce": info_nce,
        "hard_negative_nce": hard_negative_nce,
    }
    loss, arguments = losses[method.removesuffix(", ids")], {} if method.startswith("dense") else options
    if method.endswith(", ids"):
        arguments = {**arguments, "caption_ids": torch.arange(n) // 2}
    return lambda: loss(image, text, scale, **arguments), [image, text, scale]


def distillation_case(
    method: str, n: int, width: int, options: dict[str, Any]
) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """The same for soft labels of a teacher with scale 100."""
    import torch

    from stillroom.train.losses import self_distillation, transport_distillation

    image, text = (unit_rows(n, width).requires_grad_() for _ in range(2))
    teacher = (unit_rows(n, width), unit_rows(n, width))
    scale = torch.tensor(49.4, requires_grad=True)
    arguments = dict(options)
    if method.endswith(", ids"):
        arguments["caption_ids"] = torch.arange(n) // 2
    if method == "transport_distillation":
        return lambda: transport_distillation(image, text, *teacher, scale, **arguments), [image, text, scale]
    if method.startswith("dense"):
        return lambda: dense_soft_labels(image, text, *teacher, scale, 100.0), [image, text, scale]
    return lambda: self_distillation(image, text, *teacher, scale, 100.0, **arguments), [image, text, scale]


def concept_case(method: str, n: int) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """The same for concept distillation; the dense form scatters its target each time, as a trainer would."""
    import torch
    import torch.nn.functional as F

    from stillroom.train.losses import concept_distillation

    logits = torch.randn(n, CONCEPT_COUNT, requires_grad=True)
    ids = torch.randint(0, CONCEPT_COUNT, (n, LABELS_PER_SAMPLE))
    probs = torch.rand(n, LABELS_PER_SAMPLE).softmax(1)
    if method == "concept_distillation":
        return lambda: concept_distillation(logits, ids, probs), [logits]
    return lambda: F.cross_entropy(logits, torch.zeros_like(logits).scatter_add_(1, ids, probs)), [logits]


def make_case(method: str, n: int, arguments: argparse.Namespace) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """The loss of that name and its leaves."""
    if method in CONCEPTS:
        return concept_case(method, n)
    make = contrastive_case if method in CONTRASTIVE else distillation_case
    return make(method, n, arguments.width, {"bf16_products": arguments.bf16_products})


def resident() -> int:
    """Bytes resident now; where the system does not tell, the most there have been."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return peak_resident()


def peak_resident() -> int:
    """The most bytes that were resident so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Run one case in this process."""
    import torch

    torch.manual_seed(0)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.bf16_products:
        torch.set_float32_matmul_precision("medium")
    warm_up, _ = make_case(arguments.method, 64, arguments)
    warm_up().backward()
    loss, leaves = make_case(arguments.method, arguments.n, arguments)
    before = resident()
    clock, processor = [], []
    for _ in range(arguments.repeats):
        for leaf in leaves:
            leaf.grad = None
        start = time.perf_counter(), time.process_time()
        loss().backward()
        clock.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
    return {"seconds": min(clock), "processor": min(processor), "gigabytes": (peak_resident() - before) / 1e9}


def measure_apart(method: str, n: int, options: list[str]) -> dict[str, float]:
    """Run one case in a process of its own."""
    command = [sys.executable, __file__, "--method", method, "--n", str(n), *options]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_table(title: str, methods: tuple[str, ...], sizes: list[int], options: list[str]) -> None:
    """One line a method and size, with ratios to the first method at that size."""
    print(f"\n{title}\n{'N':>7}  {'loss':<24}{'s':>9}{'CPU s':>9}{'ratio':>7}{'added GB':>10}{'ratio':>7}")
    for n in sizes:
        reference: dict[str, float] | None = None
        for method in methods:
            if method.startswith("dense") and n > LARGEST_DENSE:
                continue
            result = measure_apart(method, n, options)
            reference = reference or (result if method == methods[0] else None)
            ratio: dict[str, Any] = {"processor": "", "gigabytes": ""}
            if reference:
                ratio = {key: f"{result[key] / max(reference[key], 1e-9):.2f}" for key in ratio}
            print(
                f"{n:>7,}  {method:<24}{result['seconds']:>9.3f}{result['processor']:>9.3f}{ratio['processor']:>7}"
                f"{result['gigabytes']:>10.3f}{ratio['gigabytes']:>7}",
                flush=True,
            )


def main() -> None:
    """Print the tables, or with --method and --n measure one case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of pairs")
    parser.add_argument("--width", type=int, default=512, help="embedding width (512)")
    parser.add_argument("--threads", type=int, default=0, help="threads (PyTorch's choice)")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions, of which the best counts (3)")
    parser.add_argument("--bf16-products", action="store_true", help="multiply as bf16 where the processor can")
    parser.add_argument(
        "--method", choices=CONTRASTIVE + DISTILLATION + CONCEPTS, help="measure one loss only, printed as JSON"
    )
    parser.add_argument("--n", type=int, default=512, help="number of pairs with --method")
    arguments = parser.parse_args()
    if arguments.method:
        print(json.dumps(measure(arguments)))
        return
    options = ["--width", str(arguments.width), "--threads", str(arguments.threads)]
    options += ["--repeats", str(arguments.repeats), *(["--bf16-products"] if arguments.bf16_products else [])]
    sizes = arguments.sizes or ([512, 2048, 4096] if arguments.quick else [512, 2048, 8192, 16_384, 32_768])
    print_table(f"Contrastive, width {arguments.width}, float32", CONTRASTIVE, sizes, options)
    soft_sizes = sizes if arguments.sizes else sizes[:3]
    print_table(f"Soft labels, width {arguments.width}, float32", DISTILLATION, soft_sizes, options)
    concept_sizes = [512] if arguments.quick else [512, 4096]
    print_table(f"Concepts, {LABELS_PER_SAMPLE} of {CONCEPT_COUNT:,} labelled", CONCEPTS, concept_sizes, options)


if __name__ == "__main__":
    main()
