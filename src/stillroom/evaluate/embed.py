"""Pictures and texts to L2-normalised embeddings, and prompts to zero-shot class weights.

Only the model's own preprocessing and tokenizer are used, so any image size and any text tower will do. Shapes: P
pictures, T texts, D dimensions, C classes.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stillroom.data.images import ImageError, decode_image
from stillroom.errors import DataError
from stillroom.evaluate.items import EvalDataset, Item
from stillroom.model.parts import encode_text, trim_padding
from stillroom.progress import progress
from stillroom.records import Fault

Precision = Literal["fp32", "bf16"]

# Between the names of one class, in classnames.txt: "sofa|couch". Our choice; no public list of class names uses it.
SYNONYMS = "|"
PROMPTS_AT_A_TIME = 2**16


@dataclass(frozen=True, kw_only=True)
class ImageEmbeddings:
    """The pictures of a test set that could be used, in its order, and the faults of those that could not.

    Attributes:
        vectors: (P, D) float32, rows of length 1.
        names: `Item.name` of each row.
        labels: class of each row, for classification; else empty.
        captions: captions of each row, for retrieval; else empty.
        faults: pictures that were skipped, each with its reason.
    """

    vectors: NDArray[np.float32]
    names: tuple[str, ...]
    labels: tuple[int, ...]
    captions: tuple[tuple[str, ...], ...]
    faults: tuple[Fault, ...]


def embed_images(
    model: Any,
    preprocess: Callable[[Any], Any],
    dataset: EvalDataset,
    *,
    batch_size: int = 64,
    device: str = "cpu",
    precision: Precision = "fp32",
    workers: int = 2,
) -> ImageEmbeddings:
    """Embed every picture of a data set; decoding and preprocessing run in `workers` threads ahead of the model.

    Raises:
        DataError: a shard is damaged, no picture can be used, or the model gives NaN or zero embeddings.
    """
    import torch

    rows: list[NDArray[np.float32]] = []
    items: list[Item] = []
    faults: list[Fault] = []
    with progress(f"embed {dataset.name}", dataset.count(), "pictures") as shown:
        for batch in _preprocessed(dataset, preprocess, batch_size=batch_size, workers=workers):
            good = [(item, tensor) for item, tensor in batch if isinstance(item, Item)]
            faults += [item for item, _ in batch if isinstance(item, Fault)]
            if good:
                pixels = torch.stack([tensor for _, tensor in good]).to(device)
                with inference(model, device=device, precision=precision):
                    vectors = model.encode_image(pixels)
                rows.append(unit_rows(vectors, [item.name for item, _ in good]))
                items += [item for item, _ in good]
            shown.advance(len(batch))
    if not items:
        reasons = ", ".join(sorted({fault.reason for fault in faults})) or "it is empty"
        raise DataError(f"{dataset.name}: no picture can be used ({reasons})")
    return ImageEmbeddings(
        vectors=np.concatenate(rows),
        names=tuple(item.name for item in items),
        labels=tuple(item.label for item in items if item.label is not None),
        captions=tuple(item.captions for item in items if item.captions),
        faults=tuple(faults),
    )


def _preprocessed(
    dataset: EvalDataset, preprocess: Callable[[Any], Any], *, batch_size: int, workers: int
) -> Iterator[list[tuple[Item | Fault, Any]]]:
    """Yield batches of (item without its bytes, tensor) or (fault, None) in order; two batches are kept ahead."""

    def load(item: Item | Fault) -> tuple[Item | Fault, Any]:
        if isinstance(item, Fault):
            return item, None
        bare = dataclasses.replace(item, image=b"")
        try:
            return bare, preprocess(decode_image(item.image))
        except ImageError as error:
            return Fault(shard=item.shard, key=item.key, reason=error.reason, detail=str(error)), None

    waiting: deque[Future[tuple[Item | Fault, Any]]] = deque()
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for item in dataset:
            waiting.append(pool.submit(load, item))
            if len(waiting) >= 3 * batch_size:
                yield [waiting.popleft().result() for _ in range(batch_size)]
        while waiting:
            yield [waiting.popleft().result() for _ in range(min(batch_size, len(waiting)))]


def embed_texts(
    model: Any,
    tokenizer: Callable[[list[str]], Any],
    texts: Sequence[str],
    *,
    batch_size: int = 64,
    device: str = "cpu",
    precision: Precision = "fp32",
) -> NDArray[np.float32]:
    """Return the embeddings of texts, (T, D) float32 with rows of length 1.

    Each different text is embedded once, so that equal texts have equal embeddings to the last bit.

    Raises:
        DataError: no texts, or the model gives NaN or zero embeddings.
    """
    if not texts:
        raise DataError("no texts to embed")
    # By length, so that the padding a whole batch shares can be cut: most of a short text's cost is padding.
    different = sorted(dict.fromkeys(texts), key=lambda text: (len(text), text))
    places = {text: place for place, text in enumerate(different)}
    rows = []
    with progress("embed texts", len(different), "texts") as shown:
        for start in range(0, len(different), batch_size):
            batch = different[start : start + batch_size]
            tokens = trim_padding(model, tokenizer(batch)).to(device)
            with inference(model, device=device, precision=precision):
                vectors = encode_text(model, tokens)
            rows.append(unit_rows(vectors, batch))
            shown.advance(len(batch))
    return np.concatenate(rows)[[places[text] for text in texts]]


def prompt_weights(
    model: Any,
    tokenizer: Callable[[list[str]], Any],
    classnames: Sequence[str],
    templates: Sequence[str],
    *,
    batch_size: int = 64,
    device: str = "cpu",
    precision: Precision = "fp32",
) -> NDArray[np.float32]:
    """Return zero-shot class weights (D, C) float32: per class the mean of its prompts' embeddings, renormalised.

    A class with several names ("sofa|couch") is the mean over all its names in all templates. Prompts are embedded some
    classes at a time: 21,843 classes in 80 templates are never in memory at once.

    Raises:
        DataError: no class, no template, or prompts whose mean is zero or NaN.
    """
    if not classnames or not templates:
        raise DataError(f"{len(classnames)} class names and {len(templates)} templates; zero-shot needs both")
    means: list[NDArray[np.float32]] = []
    rows = max(1, PROMPTS_AT_A_TIME // len(templates))
    for start in range(0, len(classnames), rows):
        prompts = [class_prompts(name, templates) for name in classnames[start : start + rows]]
        flat = [prompt for group in prompts for prompt in group]
        vectors = embed_texts(model, tokenizer, flat, batch_size=batch_size, device=device, precision=precision)
        ends = np.cumsum([len(group) for group in prompts])
        means += [part.mean(axis=0) for part in np.split(vectors, ends[:-1])]
    return np.ascontiguousarray(unit_rows(np.stack(means), classnames).T)


def class_prompts(name: str, templates: Sequence[str]) -> list[str]:
    """Return every template filled in with every name of a class; `{c}` (or open_clip's `{}`) is replaced, no more."""
    return [template.replace("{c}", part).replace("{}", part) for part in synonyms(name) for template in templates]


def synonyms(name: str) -> list[str]:
    """Return the names of a class: "sofa|couch" has two."""
    return [part.strip() for part in name.split(SYNONYMS) if part.strip()]


@contextmanager
def inference(model: Any, *, device: str, precision: Precision) -> Iterator[None]:
    """Run the block in eval mode without gradients, with autocast to bfloat16 if asked; the mode is put back after."""
    import torch

    training = model.training
    model.eval()
    autocast = torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=precision == "bf16")
    try:
        with torch.inference_mode(), autocast:
            yield
    finally:
        model.train(training)


def unit_rows(vectors: Any, names: Sequence[str]) -> NDArray[np.float32]:
    """Return (N, D) vectors, a tensor or an array, as float32 rows of length 1.

    Raises:
        DataError: a row holds NaN or infinity or is all zeros; the message names the first three.
    """
    rows = vectors.detach().float().cpu().numpy() if hasattr(vectors, "detach") else vectors
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    bad = np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))
    if bad.size:
        first = ", ".join(f"'{names[i]}'" for i in bad[:3])
        raise DataError(f"the model gives NaN or zero embeddings for {bad.size} of {len(names)} inputs: {first}")
    return (rows / lengths[:, None]).astype(np.float32)
