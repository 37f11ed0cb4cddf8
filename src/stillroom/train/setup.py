"""From a recipe to a model, and to its content of `open_clip_config.json`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stillroom.artifacts import read_json
from stillroom.errors import ConfigError
from stillroom.model.load import load_model
from stillroom.model.locking import enable_gradient_checkpointing, lock_towers
from stillroom.model.parts import encode_text, image_trunk, trim_padding
from stillroom.model.towers import CONFIG_FILE, create_model, create_tokenizer, one_line
from stillroom.model.zoo import released_by_file, released_models
from stillroom.train.config import AugmentConfig, ModelConfig
from stillroom.train.resize import square_side


def build_model(config: ModelConfig) -> tuple[dict[str, Any], Any, Any]:
    """Return (content of `open_clip_config.json`, model, tokenizer), with what the recipe locks frozen.

    Raises:
        ConfigError: an unknown model, towers that do not fit, more unlocked layers than there are, pictures that are
            not square.
        DataError: `start_from` names nothing.
    """
    if config.start_from is not None:
        model, _, tokenizer = load_model(config.start_from)
        described = _described(config.start_from)
        if config.image_size is not None:
            resize_image_tower(model, described, config.image_size)
    else:
        described = _named(config.name) if config.name is not None else copy.deepcopy(dict(config.open_clip or {}))
        _complete(described["model_cfg"], config.image_size)
        model = create_model(
            described, pretrained_image=config.pretrained_image, pretrained_text=config.pretrained_text
        )
        tokenizer = create_tokenizer(described)
    lock_towers(
        model,
        lock_image=config.lock_image,
        unlocked_image_groups=config.unlocked_image_groups,
        lock_text=config.lock_text,
        unlocked_text_layers=config.unlocked_text_layers,
    )
    bias = getattr(model, "logit_bias", None)
    if bias is not None:
        # Of sigmoid losses; the losses here have none.
        bias.requires_grad_(requires_grad=False)
    freeze_unused(model, tokenizer)
    if config.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    described["preprocess_cfg"] = dict(model.visual.preprocess_cfg)
    square_side(described["preprocess_cfg"]["size"])
    return described, model, tokenizer


def _complete(model_cfg: dict[str, Any], image_size: int | None) -> None:
    """Write the pictures' size into the image tower's table, and None where TOML has no word for it."""
    if image_size is not None:
        model_cfg.setdefault("vision_cfg", {})["image_size"] = image_size
    text = model_cfg.get("text_cfg", {})
    if text.get("hf_proj_type") == "":
        text["hf_proj_type"] = None


def resize_image_tower(model: Any, described: dict[str, Any], size: int) -> None:
    """Replace the image tower by one for pictures of another size, with the same weights, in place.

    Position embeddings of open_clip's own vision transformers are interpolated. Convolutional towers take pictures of
    any size; a timm tower with a fixed size cannot be resized, nor can attention pooling.

    Args:
        model: open_clip's.
        described: its content of `open_clip_config.json`, which gets the new size.
        size: side of the pictures, pixels.

    Raises:
        ConfigError: the tower cannot take pictures of that size.
    """
    from open_clip.model import resize_pos_embed

    described["model_cfg"]["vision_cfg"]["image_size"] = size
    described["preprocess_cfg"] = {**model.visual.preprocess_cfg, "size": size}
    # By open_clip's factory beside the smallest of text towers: the model's own may need files that are elsewhere.
    text = {"context_length": 1, "vocab_size": 4, "width": 8, "heads": 1, "layers": 1}
    image_only = {key: described["model_cfg"][key] for key in described["model_cfg"] if key != "text_cfg"}
    resized = create_model({**described, "model_cfg": {**image_only, "text_cfg": text}})
    weights = {f"visual.{name}": tensor for name, tensor in model.visual.state_dict().items()}
    resize_pos_embed(weights, resized)
    try:
        resized.visual.load_state_dict({name.removeprefix("visual."): tensor for name, tensor in weights.items()})
    except RuntimeError as error:
        raise ConfigError(f"model.image_size is {size}: the image tower cannot be resized: {one_line(error)}") from None
    model.visual = resized.visual


def _named(name: str) -> dict[str, Any]:
    import open_clip

    config = open_clip.get_model_config(name)
    if config is None:
        raise ConfigError(
            f"model.name is '{name}', which open_clip does not know; open_clip.list_models() lists the names"
        )
    return {"model_cfg": config, "preprocess_cfg": {}}


def _described(start_from: str) -> dict[str, Any]:
    """Return the config of a model that `load_model` has loaded by this name."""
    import open_clip

    released = released_models().get(start_from) or released_by_file(Path(start_from).name)
    if released is not None:
        return copy.deepcopy(released.config)
    path = Path(start_from)
    if path.exists():
        folder = next(place for place in (path, *path.parents) if (place / CONFIG_FILE).exists())
        return dict(read_json(folder / CONFIG_FILE))
    if start_from.startswith("hf-hub:"):
        from huggingface_hub import hf_hub_download

        try:
            return dict(read_json(Path(hf_hub_download(start_from.removeprefix("hf-hub:"), CONFIG_FILE))))
        except Exception as error:  # noqa: BLE001 - hub clients raise many kinds
            raise ConfigError(f"no {CONFIG_FILE} in {start_from}: {one_line(error)}") from None
    architecture, _, tag = start_from.rpartition("/")
    described = _named(architecture)
    if (open_clip.get_pretrained_cfg(architecture, tag) or {}).get("quick_gelu"):
        described["model_cfg"]["quick_gelu"] = True
    return described


def stores_images(model: Any, config: ModelConfig, augment: AugmentConfig) -> bool:
    """Whether a picture's features are always the same, so that the frozen image trunk runs once per picture.

    Towers that pool by attention give a map of features behind the trunk, which would take more room than the picture.
    """
    import torch

    if not config.lock_image or config.unlocked_image_groups or augment.changes:
        return False
    model.eval()
    with torch.inference_mode():
        return image_trunk(model, _blank_picture(model)).ndim == 2


def freeze_unused(model: Any, tokenizer: Callable[[list[str]], Any]) -> None:
    """Freeze what neither embedding depends on, nor is the scale, such as CoCa's text decoder.

    It would not learn anyway, and DDP waits for a gradient of everything that does.
    """
    training = model.training
    # In evaluation mode no random number is drawn and no batch norm moves.
    model.eval()
    tokens = trim_padding(model, tokenizer(["a"]))
    embeddings = [model.encode_image(_blank_picture(model)), encode_text(model, tokens)]
    model.train(training)
    used = {id(model.logit_scale), *_learning_behind(embeddings)}
    for parameter in model.parameters():
        if id(parameter) not in used:
            parameter.requires_grad_(requires_grad=False)


def _learning_behind(results: Sequence[Any]) -> set[int]:
    """Return the `id` of every learning parameter in the graph behind some results."""
    ahead = [result.grad_fn for result in results]
    seen: set[Any] = {None}
    while ahead:
        node = ahead.pop()
        if node not in seen:
            seen.add(node)
            ahead.extend(before for before, _ in node.next_functions)
    return {id(node.variable) for node in seen if hasattr(node, "variable")}


def _blank_picture(model: Any) -> Any:
    """Return (1, 3, H, W) zeros of the model's size, where the model is."""
    import torch

    size = model.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return torch.zeros(1, 3, height, width, device=model.logit_scale.device)
