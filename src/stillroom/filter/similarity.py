"""How well picture and caption go together by a model: the cosine of its two embeddings."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.errors import DataError
from stillroom.model.load import load_model
from stillroom.model.parts import encode_text, trim_padding

if TYPE_CHECKING:
    from PIL import Image

# A cosine's last bits depend on the batch and the machine, around 1e-7 in float32; rounded to these decimals they are
# equal, but for the rare cosine that lies on the border between two.
DECIMALS = 4


class PairScorer:
    """Scores pairs by an open_clip model on the CPU, on as many threads as PyTorch was given; see `pair_scorer`."""

    def __init__(self, model: Any, preprocess: Callable[[Image.Image], Any], tokenizer: Callable[..., Any]) -> None:
        self._model, self._preprocess, self._tokenizer = model.eval(), preprocess, tokenizer

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> list[float]:
        """Return the cosine of each picture and its caption, -1 to 1, rounded to `DECIMALS`.

        Captions longer than the model's context are cut by its tokenizer. What else is in the batch changes nothing;
        everything is in memory at once, so the caller decides how many pairs that is.

        Args:
            images: RGB, of any sizes.
            captions: one for each picture.

        Raises:
            DataError: the model gives NaN or zeros.
            ValueError: there are more or fewer captions than pictures.
        """
        import torch

        if len(images) != len(captions):
            raise ValueError(f"{len(images)} pictures and {len(captions)} captions; each pair has one of each")
        if not images:
            return []
        with torch.inference_mode():
            pixels = torch.stack([self._preprocess(image) for image in images])
            image_ND = self._model.encode_image(pixels)
            different = list(dict.fromkeys(captions))
            text_TD = encode_text(self._model, trim_padding(self._model, self._tokenizer(different)))
            places = {caption: place for place, caption in enumerate(different)}
            text_ND = text_TD[[places[caption] for caption in captions]]
        return cosines(image_ND.float().numpy(), text_ND.float().numpy())


def cosines(one_ND: np.ndarray, other_ND: np.ndarray) -> list[float]:
    """Return the cosine of each row with the same row of the other, in float64, rounded to `DECIMALS`.

    Raises:
        DataError: a row has no direction, because it is all zeros or holds NaN or infinity.
    """
    one_ND, other_ND = one_ND.astype(np.float64), other_ND.astype(np.float64)
    lengths_N = np.linalg.norm(one_ND, axis=1) * np.linalg.norm(other_ND, axis=1)
    if not np.all(np.isfinite(lengths_N) & (lengths_N > 0)):
        raise DataError(
            "the model for similarity gives NaN, infinite or zero embeddings; take another similarity_model"
        )
    found = np.round((one_ND * other_ND).sum(axis=1) / lengths_N, DECIMALS)
    return [float(value) for value in np.clip(found, -1.0, 1.0) + 0.0]  # + 0.0: there is no -0.0 in a verdict


@functools.lru_cache(maxsize=1)
def pair_scorer(name: str) -> PairScorer:
    """Load a model, once per process.

    Args:
        name: anything that `stillroom.load_model` takes: an open_clip name with its tag, a run folder, a checkpoint.

    Raises:
        DataError, ArtifactError, ConfigError: as `stillroom.load_model`.
    """
    return PairScorer(*load_model(name))
