"""What the ranks of a group agree on before a loss exchanges embeddings.

A rank that refused its inputs alone would leave the others waiting in a collective, and ranks whose inputs differ would
exchange tensors that do not fit. So each rank first says, in one exchange of two integers, how many rows it has or
that its checks failed, and a digest of all that has to be equal. Only if something is wrong is it exchanged in words,
and then every rank raises the same error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from stillroom.errors import ConfigError, DataError
from stillroom.train.losses.gather import RankRows

# Room for the words of a rank (our choice), of which JSON may write a letter as 12 bytes.
_WORDS_BYTES = 1 << 14
_LONGEST_MESSAGE = 1000
# Stands for the number of rows of a rank whose checks failed.
_REFUSED = -1


@dataclass(frozen=True, kw_only=True)
class Call:
    """A rank's call of a loss.

    Attributes:
        rows: its number of pairs, which may differ from rank to rank.
        facts: what may not differ, name -> number or words; named in the error if it does.
    """

    rows: int
    facts: Mapping[str, object]


def describe_call(
    pairs: Tensor,
    *,
    dtype: torch.dtype,
    caption_ids: Tensor | None,
    differentiated: Mapping[str, Tensor | float],
    settings: Mapping[str, object],
) -> Call:
    """Collect what decides which tensors a loss exchanges, and what it makes of them.

    Args:
        pairs: (n, D) one of the embeddings.
        dtype: of the computation.
        caption_ids: (n,), or None.
        differentiated: the inputs that may want a gradient, by name.
        settings: name of the loss and its settings.
    """
    wanted = [name for name, given in differentiated.items() if isinstance(given, Tensor) and given.requires_grad]
    facts = {
        "embedding width": pairs.shape[1],
        "number type": str(dtype).removeprefix("torch."),
        "caption_ids": "not given" if caption_ids is None else "given",
        "inputs with gradient": (", ".join(wanted) if torch.is_grad_enabled() else "") or "none",
    }
    return Call(rows=len(pairs), facts={**settings, **facts})


def rank_rows(check: Callable[[], Call], device: torch.device, group: dist.ProcessGroup | None) -> RankRows:
    """Check a rank's inputs and learn from the others how many rows they have; every rank of `group` has to call it.

    Args:
        check: raises a `DataError` or `ConfigError`, or describes the call.
        device: where the ranks' tensors lie.
        group: the ranks; None is one process that never communicates.

    Raises:
        DataError: a rank refused its inputs, or the ranks' calls differ; the same on every rank.
        ConfigError: a rank refused its settings; the same on every rank.
    """
    if group is None:
        return RankRows(group=None, rank=0, counts=(check().rows,))
    try:
        call, refusal = check(), None
    except (DataError, ConfigError) as error:
        call, refusal = Call(rows=_REFUSED, facts={}), error
    own = torch.tensor([call.rows, _digest(call.facts)], device=device)
    headers = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(headers, own, group=group)
    counts, digests = zip(*(header.tolist() for header in headers), strict=True)
    if min(counts) == _REFUSED or len(set(digests)) > 1:
        raise _what_is_wrong(_exchange_words(_words(call, refusal), device, group)) from refusal
    return RankRows(group=group, rank=dist.get_rank(group), counts=counts)


def _digest(facts: Mapping[str, object]) -> int:
    """56 bits of a hash, so that it fits a signed integer of 64."""
    return int.from_bytes(hashlib.blake2b(json.dumps(facts, default=str).encode(), digest_size=7).digest(), "big")


def _words(call: Call, refusal: DataError | ConfigError | None) -> dict[str, Any]:
    if refusal is None:
        return {"facts": dict(call.facts)}
    return {"error": str(refusal)[:_LONGEST_MESSAGE], "is_config": isinstance(refusal, ConfigError)}


def _exchange_words(words: dict[str, Any], device: torch.device, group: dist.ProcessGroup) -> list[dict[str, Any]]:
    padded = json.dumps(words, default=str).encode().ljust(_WORDS_BYTES)
    own = torch.tensor(list(padded), dtype=torch.uint8, device=device)
    everyone = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(everyone, own, group=group)
    return [json.loads(bytes(one.tolist())) for one in everyone]


def _what_is_wrong(words: list[dict[str, Any]]) -> DataError | ConfigError:
    """Return the error of the first rank that refused, or the first fact that differs."""
    for rank, said in enumerate(words):
        if "error" in said:
            return (ConfigError if said["is_config"] else DataError)(f"on rank {rank}: {said['error']}")
    first = words[0]["facts"]
    for rank, said in enumerate(words):
        for name in [*first, *said["facts"]]:
            values = [facts.get(name, "not given") for facts in (first, said["facts"])]
            if values[0] != values[1]:
                return DataError(
                    f"{name} is {values[0]} on rank 0 and {values[1]} on rank {rank}; "
                    "call the loss with the same settings and the same kind of tensors on every rank"
                )
    raise AssertionError("the ranks' calls have other digests and equal facts")
