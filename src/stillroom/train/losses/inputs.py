"""What the losses accept: checks with clear errors, caption ids, and the precision they compute in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from stillroom.errors import ConfigError, DataError


def check_pairs(first: Tensor, second: Tensor, *, names: str = "image and text") -> None:
    """Refuse embeddings that are not two (N, D) tensors of real numbers with equal shapes."""
    if first.ndim != 2 or first.shape != second.shape:
        raise DataError(
            f"{names} embeddings have shapes {tuple(first.shape)} and {tuple(second.shape)}; "
            "the loss takes two (N, D) tensors in which row i of one matches row i of the other"
        )
    if not (first.is_floating_point() and second.is_floating_point()):
        raise DataError(f"{names} embeddings have dtypes {first.dtype} and {second.dtype}; give floating point")


def checked_ids(caption_ids: Tensor | None, rows: Tensor) -> Tensor | None:
    """The caption ids as int64 (N,) on the embeddings' device, or None if none were given."""
    if caption_ids is None:
        return None
    if caption_ids.shape != rows.shape[:1] or caption_ids.is_floating_point() or caption_ids.is_complex():
        raise DataError(
            f"caption_ids is {caption_ids.dtype} of shape {tuple(caption_ids.shape)}; "
            f"give one integer for each of the {len(rows)} pairs"
        )
    return caption_ids.to(device=rows.device, dtype=torch.int64)


def negative_counts(ids: Tensor | None, total: int, like: Tensor) -> Tensor:
    """How many of the N pairs are negatives of each pair: those with another caption id, (N,), typed as `like`."""
    if ids is None:
        return like.new_full((total,), total - 1)
    _, index, sizes = ids.unique(return_inverse=True, return_counts=True)
    return (total - sizes[index]).to(like.dtype)


def checked_scale(scale: Tensor | float, rows: Tensor, *, name: str = "scale") -> Tensor:
    """The scale (1 / temperature) as a 0-d tensor of the embeddings' type and device, with its gradient.

    A negative one is refused, unless it lies on a GPU, which would have to be waited for.
    """
    tensor = torch.as_tensor(scale, dtype=rows.dtype, device=rows.device)
    if tensor.numel() != 1:
        raise ConfigError(f"{name} has shape {tuple(tensor.shape)}; give one number, exp(logit scale)")
    at_hand = scale.detach() if isinstance(scale, Tensor) else scale
    if not (isinstance(at_hand, Tensor) and at_hand.device.type != "cpu") and float(at_hand) < 0:
        raise ConfigError(
            f"{name} is {float(at_hand):g}; give 1 / temperature, exp(logit scale), which is not negative"
        )
    return tensor.reshape(())


def at_least_float32(*tensors: Tensor) -> list[Tensor]:
    """The tensors in their common floating-point type, which is float32 unless one of them is float64."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]


def full_precision(like: Tensor) -> torch.autocast:
    """A context in which products keep the operands' type, also inside an autocast region."""
    return torch.autocast(like.device.type, enabled=False)


def rounded_to_bf16(rows: Tensor) -> Tensor:
    """float32 rows with the values that bf16 has for them, still float32; the gradient passes unrounded.

    float64 rows are returned as they are.
    """
    if rows.dtype != torch.float32:
        return rows
    exact = rows.detach()
    # The difference to the nearest bf16 number, and the sum with it, are exact in float32.
    return rows + (exact.bfloat16().float() - exact)


@contextmanager
def reduced_products(*, bf16: bool) -> Iterator[None]:
    """A context in which PyTorch may multiply float32 matrices as bf16 or TF32, with float32 sums, if `bf16`.

    The switch is PyTorch's own for the whole process ("medium"); what it was before is set again at the end. Which
    processors take it up is PyTorch's affair: CPUs with matrix units for bf16 use these, NVIDIA's GPUs TF32.
    """
    if not bf16:
        yield
        return
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:
        # PyTorch refuses to say after a caller has set one of the switches below alone; this one is then at its start.
        before = "highest"
    # The switches that "medium" stands for, where PyTorch has them: "none" is not the same as what it resolves to.
    switches: list[Any] = [getattr(backend, "matmul", None) for backend in (torch.backends.cuda, torch.backends.mkldnn)]
    saved = [(switch, switch.fp32_precision) for switch in switches if hasattr(switch, "fp32_precision")]
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        for switch, value in saved:
            switch.fp32_precision = value


def refuse_second_derivatives() -> None:
    """Raise if a backward pass is itself to be differentiated; called first thing in every backward of our own."""
    if torch.is_grad_enabled():
        raise NotImplementedError(
            "the losses of stillroom have first derivatives only; take their gradient without create_graph=True"
        )
