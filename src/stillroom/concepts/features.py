"""The teacher's features: once per picture, stored per shard in float16, read back as one array.

Batches never cross shards, so a shard's features do not depend on what was computed before it.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stillroom.artifacts import writing
from stillroom.concepts.teacher import Teacher
from stillroom.concepts.transform import PictureTransform
from stillroom.data.images import ImageError, decode_image
from stillroom.data.reasons import FEATURES_NOT_FINITE
from stillroom.data.source import Shard
from stillroom.records import Fault, Sample

if TYPE_CHECKING:
    import pyarrow as pa

Precision = Literal["bf16", "fp32"]
FAULTS = b"stillroom.faults"


@dataclass(frozen=True, kw_only=True)
class ShardFeatures:
    """One shard's features.

    Attributes:
        keys: of the pictures that could be read, in the shard's order.
        features: (N, D) float16.
        faults: the samples that could not be used, and why.
    """

    keys: list[str]
    features: np.ndarray
    faults: list[Fault]


def resolve_precision(precision: Literal["auto", "bf16", "fp32"], device: str) -> Precision:
    """Return "bf16" for "auto" where the device multiplies bfloat16 natively, else "fp32"; others unchanged."""
    if precision != "auto":
        return precision
    import torch

    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp32"
    tests = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return "bf16" if any(test is not None and test() for test in tests) else "fp32"


def compute_features(
    shard: Shard,
    teacher: Teacher,
    *,
    keep: Collection[str] | None,
    batch_size: int,
    precision: Precision,
    device: str,
    threads: int,
    advance: Callable[[int], None] = lambda amount: None,
) -> ShardFeatures:
    """Run the teacher over one shard's pictures, `threads` batches side by side, one thread each.

    So all cores decode and multiply with one copy of the weights, and no thread waits for another inside a
    multiplication, which on a busy machine costs more than the multiplication itself.

    Args:
        shard: where the pictures are.
        teacher: the frozen encoder; its module is on `device`.
        keep: keys to compute, others are passed over; None computes all.
        batch_size: samples per forward pass.
        precision: "bf16" runs the module under autocast.
        device: of the module.
        threads: batches in work at once.
        advance: told the number of pictures after each batch.
    """
    keys: list[str] = []
    blocks = [np.zeros((0, teacher.feature_dim), np.float16)]
    faults: list[Fault] = []

    def collect(done: ShardFeatures) -> None:
        keys.extend(done.keys)
        blocks.append(done.features)
        faults.extend(done.faults)
        advance(len(done.keys))

    with _worker_threads(threads) as pool:
        waiting: deque[Future[ShardFeatures]] = deque()
        for samples in _batches(shard, keep, batch_size):
            waiting.append(pool.submit(_encode, samples, teacher, precision, device))
            if len(waiting) > 2 * threads:
                collect(waiting.popleft().result())
        while waiting:
            collect(waiting.popleft().result())
    return ShardFeatures(keys=keys, features=np.concatenate(blocks), faults=faults)


@contextmanager
def _worker_threads(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose threads multiply on one core each; torch's own number of threads is put back afterwards."""
    import torch

    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _batches(shard: Shard, keep: Collection[str] | None, size: int) -> Iterator[list[Sample | Fault]]:
    """Cut what is kept of a shard into lists; a fault without a key is of the shard, and concerns everyone."""
    batch: list[Sample | Fault] = []
    for sample in shard.samples():
        if keep is None or sample.key in keep or (isinstance(sample, Fault) and not sample.key):
            batch.append(sample)
            if len(batch) == size:
                yield batch
                batch = []
    if batch:
        yield batch


def _encode(samples: list[Sample | Fault], teacher: Teacher, precision: Precision, device: str) -> ShardFeatures:
    import torch

    used: list[Sample] = []
    pictures: list[Any] = []
    faults: list[Fault] = []
    for sample in samples:
        if isinstance(sample, Fault):
            faults.append(sample)
            continue
        decoded = _decode(sample, teacher)
        if isinstance(decoded, Fault):
            faults.append(decoded)
        else:
            used.append(sample)
            pictures.append(decoded)
    if not pictures:
        return ShardFeatures(keys=[], features=np.zeros((0, teacher.feature_dim), np.float16), faults=faults)
    batch = torch.stack(pictures).to(device, memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast(batch.device.type, torch.bfloat16, enabled=precision == "bf16"):
        features = teacher.module(batch).float()
    finite = features.isfinite().all(1).cpu().numpy()
    faults += [_not_finite(sample) for sample, good in zip(used, finite, strict=True) if not good]
    # A feature beyond float16 would become infinite and spoil the heads.
    largest = float(np.finfo(np.float16).max)
    stored = features.clamp(-largest, largest).cpu().numpy()[finite].astype(np.float16)
    return ShardFeatures(keys=[sample.key for sample in compress(used, finite)], features=stored, faults=faults)


def _not_finite(sample: Sample) -> Fault:
    """Return the fault of a picture whose features are infinite or no numbers: a single one would spoil both heads."""
    detail = "the teacher's features of this picture are not finite"
    return Fault(shard=sample.shard, key=sample.key, reason=FEATURES_NOT_FINITE, detail=detail)


def _decode(sample: Sample, teacher: Teacher) -> Fault | Any:
    try:
        # Of another transform nobody knows how many pixels it needs.
        size = teacher.transform.size if isinstance(teacher.transform, PictureTransform) else None
        picture = decode_image(sample.image or b"", reduce_to=size)
    except ImageError as error:
        return Fault(shard=sample.shard, key=sample.key, reason=error.reason, detail=str(error))
    return teacher.transform(picture)


def features_table(computed: ShardFeatures) -> pa.Table:
    """Return the Parquet form: key, features (fixed-size list of float16); faults as JSON in the schema's metadata."""
    import pyarrow as pa

    flat = pa.array(computed.features.ravel(), pa.float16())
    features = pa.FixedSizeListArray.from_arrays(flat, computed.features.shape[1])
    faults = [[fault.key, fault.reason, fault.detail] for fault in computed.faults]
    table = pa.table({"key": pa.array(computed.keys, pa.string()), "features": features})
    return table.replace_schema_metadata({FAULTS: json.dumps(faults).encode()})


def read_faults(table: pa.Table, shard: str) -> list[Fault]:
    """Read the faults out of a stored `features_table`."""
    faults = json.loads(table.schema.metadata[FAULTS])
    return [Fault(shard=shard, key=key, reason=reason, detail=detail) for key, reason, detail in faults]


def fixed_lists(table: pa.Table, column: str) -> np.ndarray:
    """Return a column of fixed-size lists as an array (rows, size)."""
    size = table.schema.field(column).type.list_size
    values = table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values.reshape(-1, size)


def gather(tables: Iterable[pa.Table], path: Path, *, rows: int, feature_dim: int) -> np.ndarray:
    """Write shards' features one behind the other into a file; return it mapped, read-only.

    The file is written before it is mapped: a disk that is full would end the process at a write through a map.

    Args:
        tables: with a column `features`.
        path: of the file.
        rows: of all tables together.
        feature_dim: length of a feature vector.

    Returns:
        (rows, feature_dim) float16.

    Raises:
        WriteError: the disk is full.
    """
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False}
    with writing(path), path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (rows, feature_dim)})
        for table in tables:
            file.write(np.ascontiguousarray(fixed_lists(table, "features")).data)
    return np.lib.format.open_memmap(path, mode="r")
