"""`load_model`: one call for released models, our own runs, model folders, checkpoints and open_clip's names."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillroom.artifacts import read_json
from stillroom.data.images import MAX_ASPECT, CutEnds
from stillroom.errors import ArtifactError, ConfigError, DataError
from stillroom.model.checkpoint import WEIGHTS_FILE, load_checkpoint
from stillroom.model.download import fetch, model_folder, verify
from stillroom.model.towers import CONFIG_FILE, create_model, create_tokenizer, one_line, with_local_text
from stillroom.model.zoo import ReleasedModel, released_by_file, released_models

HUB_WEIGHTS_FILE = "open_clip_pytorch_model.bin"  # what older repositories of the hub hold instead
FORMS = (
    "a released model ({released}), a run folder of 'stillroom train', a folder with open_clip_config.json, "
    "a checkpoint (.pt) of a run, an open_clip name with its tag (ViT-B-32/laion2b_s34b_b79k), or hf-hub:ORG/REPO"
)


def load_model(name_or_path: str) -> tuple[Any, Any, Any]:
    """Load a model for evaluation.

    Args:
        name_or_path: one of

            - the name of a released DiHT model, e.g. `diht_vitb32_224px` (before a folder of that name: write `./` for
              the folder); it is downloaded once, see `stillroom.model.download`;
            - a run folder of `stillroom train`, or any folder with `open_clip_config.json` and weights;
            - a checkpoint inside a run's `checkpoints/`, or the file of a released model;
            - an open_clip architecture and pretrained tag joined by `/`, or `hf-hub:...`.

    Returns:
        open_clip's `(model, preprocess, tokenizer)`: the model in eval mode on the CPU in float32.

    Raises:
        DataError: nothing by that name.
        ArtifactError: an unfinished run, a file with another hash, or weights of another architecture.
        ConfigError: the model cannot be built, or weights cannot be downloaded.
    """
    name_or_path = str(name_or_path)
    released = released_models().get(name_or_path)
    if released is not None:
        return _load_released(released, fetch(released.file, model_folder()))
    path = Path(name_or_path)
    if path.is_dir():
        return _load_folder(path)
    if path.is_file():
        return _load_file(path)
    return _load_named(name_or_path)


def _load_released(released: ReleasedModel, path: Path) -> tuple[Any, Any, Any]:
    """Build a released model around the weights of a verified file."""
    model = create_model(released.config)
    _fill(model, load_checkpoint(path), path)
    return model.eval(), eval_transform(model), create_tokenizer(released.config)


def _fill(model: Any, weights: dict[str, Any], source: Path) -> None:
    # Strict, and by open_clip's key names alone: nothing is resized or left at its random start.
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ArtifactError(f"the weights in {source} are of another architecture: {one_line(error)}") from None


def _load_folder(folder: Path) -> tuple[Any, Any, Any]:
    from safetensors.torch import load_file

    if not (folder / CONFIG_FILE).exists():
        raise ArtifactError(f"{folder} has no {CONFIG_FILE}{_unfinished(folder)}")
    if (folder / WEIGHTS_FILE).exists():
        return _assemble(folder, load_file(folder / WEIGHTS_FILE))
    if (folder / HUB_WEIGHTS_FILE).exists():
        return _assemble(folder, load_checkpoint(folder / HUB_WEIGHTS_FILE))
    raise ArtifactError(f"{folder} has no {WEIGHTS_FILE} and no {HUB_WEIGHTS_FILE}{_unfinished(folder)}")


def _unfinished(folder: Path) -> str:
    """Say what a folder without a model is: a run that has not written its weights yet, or another stage's output."""
    if not (folder / "run.json").exists():
        return ""
    stage = read_json(folder / "run.json").get("stage", "train")
    if stage != "train":
        return f": it is the output of 'stillroom {stage}', not a model"
    checkpoints = sorted((folder / "checkpoints").glob("*.pt"))
    instead = f", or give a checkpoint inside it: {checkpoints[-1]}" if checkpoints else ""
    return f": the run is unfinished; complete it by 'stillroom train ... --resume'{instead}"


def _load_file(path: Path) -> tuple[Any, Any, Any]:
    released = released_by_file(path.name)
    if released is not None:
        verify(released.file, path)
        return _load_released(released, path)
    folder = next((parent for parent in path.parents if (parent / CONFIG_FILE).exists()), None)
    if folder is None:
        raise ArtifactError(f"no {CONFIG_FILE} beside or above {path}: it says which architecture the weights are of")
    state = load_checkpoint(path)
    return _assemble(folder, state.get("state_dict", state))


def _assemble(folder: Path, weights: dict[str, Any]) -> tuple[Any, Any, Any]:
    import open_clip

    config = read_json(folder / CONFIG_FILE)
    has_text_files = (folder / "config.json").exists()
    model = create_model(with_local_text(config, folder if has_text_files else None))
    _fill(model, weights, folder)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    return model.eval(), eval_transform(model), tokenizer


def _load_named(name: str) -> tuple[Any, Any, Any]:
    import open_clip

    if name.startswith("hf-hub:"):
        architecture, tag, quick_gelu, where = name, None, False, name.removeprefix("hf-hub:")
    else:
        architecture, _, tag = name.rpartition("/")
        if tag not in open_clip.list_pretrained_tags_by_model(architecture):
            raise DataError(_unknown(name))
        about = open_clip.get_pretrained_cfg(architecture, tag)
        # Many weights (OpenAI's, MetaCLIP's, DFN's) were trained with quick GELU. open_clip only warns when the
        # architecture of that name has plain GELU, and the scores come out too low; here the tag decides.
        quick_gelu, where = about.get("quick_gelu", False), about.get("hf_hub") or about.get("url", "")
    try:
        # Without `require_pretrained` a hub repository whose weights cannot be had gives a random model.
        model = open_clip.create_model(
            architecture, pretrained=tag, force_quick_gelu=quick_gelu, require_pretrained=True, weights_only=True
        )
        return model.eval(), eval_transform(model), open_clip.get_tokenizer(architecture)
    except Exception as error:  # noqa: BLE001 - hub clients raise many kinds
        raise ConfigError(f"model '{name}' cannot be loaded: {one_line(error)}; {_by_hand(where)}") from error


def _unknown(name: str) -> str:
    """Say that there is no such model, what is allowed, and which names are close."""
    import open_clip

    known = [*released_models(), *("/".join(pair) for pair in open_clip.list_pretrained())]
    by_lower_case = {other.lower(): other for other in known}
    close = [other for other in by_lower_case if other.startswith(f"{name.lower()}/")]  # an architecture without a tag
    close = close or difflib.get_close_matches(name.lower(), by_lower_case, n=3, cutoff=0.75)
    meant = f"; did you mean {' or '.join(by_lower_case[other] for other in close[:3])}?" if close else ""
    return f"no model '{name}'{meant}; allowed: {FORMS.format(released=', '.join(released_models()))}"


def _by_hand(where: str) -> str:
    """Say how to bring weights to a machine without a network; `where` is a repository of the hub or a URL."""
    if where.startswith("http"):
        return f"without a network, fetch {where} and put it into {Path.home() / '.cache' / 'clip'}"
    repository = where.rstrip("/") if where.endswith("/") or where.count("/") == 1 else where.rpartition("/")[0]
    return (
        f"without a network, fetch {CONFIG_FILE} and {WEIGHTS_FILE} (or {HUB_WEIGHTS_FILE}) "
        f"from https://huggingface.co/{repository} into a folder and give that folder"
    )


def eval_transform(model: Any) -> Any:
    """Return open_clip's evaluation transform for the model's own preprocessing config; see `bounded_transform`."""
    return bounded_transform(model.visual.preprocess_cfg)


def bounded_transform(preprocess: Mapping[str, Any]) -> Any:
    """Return open_clip's evaluation transform, made to take pictures of any shape: see `CutEnds`.

    Args:
        preprocess: open_clip's `visual.preprocess_cfg`.
    """
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from torchvision import transforms

    config = PreprocessCfg(**preprocess)
    steps = image_transform_v2(config, is_train=False).transforms
    size = config.size if isinstance(config.size, int) else min(config.size)
    match config.resize_mode:
        case "shortest":
            return transforms.Compose([CutEnds(MAX_ASPECT), *steps])
        case "longest":
            # One of 2 S x 1 would be half a pixel high, rounded to none, which is an error.
            return transforms.Compose([CutEnds(2 * size - 1), *steps])
    return transforms.Compose(steps)
