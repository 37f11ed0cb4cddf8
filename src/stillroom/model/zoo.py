"""The models that DiHT's authors released: a table of URL, SHA-256 and architecture, `zoo.toml` beside this module."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillroom.model.download import RemoteFile

# open_clip's evaluation transform with these is the authors': bicubic, shortest side, centre crop.
PREPROCESSING = {
    "mode": "RGB",
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


@dataclass(frozen=True, kw_only=True)
class ReleasedModel:
    """One released checkpoint.

    Attributes:
        name: as `load_model` takes it.
        url: where it is.
        sha256: of the file, lower-case hex.
        parameters: number of weights, all in float32.
        licence: of the weights.
        embed_dim: width of the embedding.
        vision_cfg: open_clip's config of the image tower.
        text_cfg: open_clip's config of the text tower.
    """

    name: str
    url: str
    sha256: str
    parameters: int
    licence: str
    embed_dim: int
    vision_cfg: Mapping[str, Any]
    text_cfg: Mapping[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """What an `open_clip_config.json` of this model holds; no `quick_gelu`, so plain GELU."""
        towers = {"vision_cfg": dict(self.vision_cfg), "text_cfg": dict(self.text_cfg)}
        return {"model_cfg": {"embed_dim": self.embed_dim, **towers}, "preprocess_cfg": dict(PREPROCESSING)}

    @property
    def file(self) -> RemoteFile:
        """What to download; twice the weights in float32 is more than any such file takes."""
        notice = f"{self.name}: weights by the authors of DiHT, licence {self.licence} (not for commercial use)"
        size = 8 * self.parameters
        return RemoteFile(name=self.name, url=self.url, sha256=self.sha256, max_bytes=size, notice=notice)


@functools.cache
def released_models() -> Mapping[str, ReleasedModel]:
    """Return the table, by name."""
    values = tomllib.loads(Path(__file__).with_name("zoo.toml").read_text(encoding="utf-8"))
    licence = values["licence"]
    return {name: ReleasedModel(name=name, licence=licence, **about) for name, about in values["models"].items()}


def released_by_file(file_name: str) -> ReleasedModel | None:
    """Return the model whose released file has this name, or None."""
    return next((model for model in released_models().values() if model.file.file_name == file_name), None)
