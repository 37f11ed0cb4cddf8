"""A model with its transform and tokenizer, whose embeddings are kept on disk: computed once per model and data set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillroom.evaluate import cache
from stillroom.evaluate.config import EvaluateConfig
from stillroom.evaluate.embed import ImageEmbeddings, Precision, embed_images, embed_texts, prompt_weights, synonyms
from stillroom.evaluate.items import EvalDataset
from stillroom.model.device import resolve_device


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Embeds pictures, texts and classes by one model; made by `make_encoder`.

    `model_key` identifies the weights; `image_key` and `text_key` all that an embedding of either kind depends on.
    """

    model: Any
    preprocess: Any
    tokenizer: Any
    batch_size: int
    device: str
    precision: Precision
    workers: int
    folder: Path
    model_key: str
    image_key: str
    text_key: str

    def images(self, dataset: EvalDataset) -> ImageEmbeddings:
        """Return the embeddings of a data set's pictures, from disk if they are there; see `embed_images`."""
        path = self.folder / f"images-{cache.key_of(self.image_key, dataset.picture_fingerprint)[:32]}.npz"
        embedded = cache.load_images(path)
        if embedded is None:
            embedded = embed_images(self.model, self.preprocess, dataset, workers=self.workers, **self._how())
            cache.save_images(path, embedded)
        return embedded

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the embeddings of texts, from disk if they are there; see `embed_texts`."""
        path = self.folder / f"texts-{cache.key_of(self.text_key, json.dumps(list(texts)))[:32]}.npz"
        vectors = cache.load_array(path)
        if vectors is None:
            vectors = embed_texts(self.model, self.tokenizer, texts, **self._how())
            cache.save_array(path, vectors)
        return vectors

    def class_weights(self, dataset: EvalDataset) -> NDArray[np.float32]:
        """Return a data set's zero-shot class weights (D, C), from disk if they are there; see `prompt_weights`."""
        return self._weights(dataset.classnames, dataset.templates)

    def name_weights(self, dataset: EvalDataset) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the weights (D, N) of all names of all classes, and the column that each class begins with, (C,)."""
        names = [synonyms(classname) for classname in dataset.classnames]
        begins = np.cumsum([0, *(len(group) for group in names[:-1])])
        return self._weights([name for group in names for name in group], dataset.templates), begins

    def _weights(self, classnames: Sequence[str], templates: Sequence[str]) -> NDArray[np.float32]:
        prompts = json.dumps([classnames, templates])
        path = self.folder / f"classes-{cache.key_of(self.text_key, prompts)[:32]}.npz"
        weights = cache.load_array(path)
        if weights is None:
            weights = prompt_weights(self.model, self.tokenizer, classnames, templates, **self._how())
            cache.save_array(path, weights)
        return weights

    def _how(self) -> dict[str, Any]:
        return {"batch_size": self.batch_size, "device": self.device, "precision": self.precision}


def make_encoder(loaded: tuple[Any, Any, Any], config: EvaluateConfig, folder: Path) -> Encoder:
    """Put an open_clip (model, preprocess, tokenizer) on the config's device and identify it.

    Args:
        loaded: what `stillroom.load_model` returns.
        config: batch size, device, precision and workers are used.
        folder: where embeddings are kept.

    Raises:
        ConfigError: an unknown device.
    """
    model, preprocess, tokenizer = loaded
    device = resolve_device(config.device)
    model = model.to(device).eval()
    image_tower, text_tower = cache.tower_fingerprints(model)
    return Encoder(
        model=model,
        preprocess=preprocess,
        tokenizer=tokenizer,
        batch_size=config.batch_size,
        device=device,
        precision=config.precision,
        workers=config.workers,
        folder=folder,
        model_key=cache.key_of(image_tower, text_tower),
        image_key=cache.key_of(image_tower, config.precision, cache.transform_fingerprint(preprocess)),
        text_key=cache.key_of(text_tower, config.precision, cache.tokenizer_fingerprint(tokenizer)),
    )
