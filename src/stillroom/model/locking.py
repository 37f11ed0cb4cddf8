"""Which parts of a dual encoder learn: locked towers, their training mode, and gradient checkpointing.

open_clip's own lock methods are not used. They count differently from tower to tower, freeze the projections of some,
print, and quietly lock nothing when asked for more groups than there are; BERT towers and its ResNets cannot be locked
in part; freezing the statistics of a timm tower drops the activations that timm keeps inside its norms.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from stillroom.errors import ConfigError
from stillroom.model.parts import Tower, kind_of, projection, text_part, trunk_parameters

# Names behind the blocks of a transformer; all else outside of them (embeddings, stems) stands before.
_BEHIND = re.compile(r"(^|\.)(ln_post|attn_pool\w*|ln_final|ln_f|pooler|norm|final\w*)\.")


def lock_towers(
    model: Any,
    *,
    lock_image: bool = False,
    unlocked_image_groups: int = 0,
    lock_text: bool = False,
    unlocked_text_layers: int = 0,
) -> None:
    """Freeze the trunks of one tower or both, wholly or up to their last groups; projections always keep learning.

    A trunk's groups are, from first to last: its stem or embeddings, then each block, the last block together with the
    norm behind it (timm towers: the groups of timm's own `group_matcher`). With 0 unlocked the whole trunk is frozen.

    Raises:
        ConfigError: more groups than there are, unlocked groups of a tower that is not locked, or a tower whose groups
            or projection are not known.
    """
    asked: tuple[tuple[Tower, bool, int, str], ...] = (
        ("image", lock_image, unlocked_image_groups, "unlocked_image_groups"),
        ("text", lock_text, unlocked_text_layers, "unlocked_text_layers"),
    )
    for tower, lock, unlocked, key in asked:
        if unlocked and not lock:
            raise ConfigError(f"{key} is {unlocked}, but the {tower} tower is not locked; set lock_{tower} = true too")
        if lock:
            _lock(model, tower, unlocked, key)


def _lock(model: Any, tower: Tower, unlocked: int, key: str) -> None:
    if tower == "image" and projection(model, "image") is None and _has_classifier(model.visual):
        raise ConfigError(
            "lock_image: the classifier of this timm tower is not one linear layer, so it would be frozen as it was "
            "drawn; write timm_proj = 'linear'"
        )
    groups = trunk_groups(model, tower) if unlocked else [list(trunk_parameters(model, tower))]
    if not 0 <= unlocked <= len(groups):
        raise ConfigError(f"{key} is {unlocked}; this {tower} tower has {len(groups)} groups, so 0 to {len(groups)}")
    parameters = dict(model.named_parameters())
    for group in groups[: len(groups) - unlocked]:
        for name in group:
            parameters[name].requires_grad_(requires_grad=False)


def _has_classifier(visual: Any) -> bool:
    return kind_of(visual) == "TimmModel" and getattr(visual.trunk, "num_classes", 0) > 0


def trunk_groups(model: Any, tower: Tower) -> list[list[str]]:
    """Return the names of a trunk's parameters, grouped in the order in which data passes them.

    Raises:
        ConfigError: a tower of an unknown kind.
    """
    part = model.visual if tower == "image" else text_part(model)
    names = set(trunk_parameters(model, tower))
    match kind_of(part):
        case "TimmModel" if hasattr(part.trunk, "group_matcher"):
            return _timm_groups(part.trunk, names)
        case "VisionTransformer" | "TextTransformer" | "CLIP":
            blocks = list(part.transformer.resblocks)
        case "ModifiedResNet":
            blocks = [*part.layer1, *part.layer2, *part.layer3, *part.layer4, part.attnpool]
        case "HFTextEncoder" if _layers(part.transformer):
            blocks = list(_layers(part.transformer))
        case _:
            raise ConfigError(
                f"the {tower} tower ({type(part).__name__}) has no groups that are known; it can be locked as a whole"
            )
    return _block_groups(model, names, blocks)


def _timm_groups(trunk: Any, names: set[str]) -> list[list[str]]:
    from timm.models import group_parameters

    matched = group_parameters(trunk, trunk.group_matcher())
    full = [[f"visual.trunk.{name}" for name in matched[index]] for index in sorted(matched)]
    # timm's classifier, where it is the projection, is a group of its own or part of the last.
    kept = [found for group in full if (found := [name for name in group if name in names])]
    # A norm behind the pooling is no group worth a number.
    learnt = dict(trunk.named_parameters(prefix="visual.trunk"))
    if len(kept) > 1 and all(learnt[name].ndim < 2 for name in kept[-1]):
        kept[-2:] = [kept[-2] + kept[-1]]
    return kept


def _layers(transformer: Any) -> Any:
    # The list of layers is the module list with most parameters: "encoder.layer", "block", "transformer.layer", ...
    import torch

    lists = [module for module in transformer.modules() if isinstance(module, torch.nn.ModuleList)]
    return max(lists, key=lambda found: sum(p.numel() for p in found.parameters()), default=None)


def _block_groups(model: Any, names: set[str], blocks: Sequence[Any]) -> list[list[str]]:
    place = {id(parameter): index for index, block in enumerate(blocks, 1) for parameter in block.parameters()}
    groups: list[list[str]] = [[] for _ in range(len(blocks) + 1)]
    for name, parameter in model.named_parameters():
        if name in names:
            outside = len(blocks) if _BEHIND.search(name) else 0
            groups[place.get(id(parameter), outside)].append(name)
    return [group for group in groups if group]


def set_training_mode(model: Any) -> None:
    """Put a model in training mode, but what is frozen in evaluation mode.

    So batch statistics, dropout and stochastic depth stand still where nothing learns. A module without parameters
    (dropout) goes with the parameters that come next behind it.
    """
    parameters = list(model.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        model.eval()
        return
    model.training = True
    next_frozen = False
    for child in reversed(list(model.children())):
        first = next(child.parameters(), None)
        if first is None:
            child.train(mode=not next_frozen)
        else:
            set_training_mode(child)
            next_frozen = not first.requires_grad


def enable_gradient_checkpointing(model: Any) -> None:
    """Trade time for memory: recompute activations in the backward pass, in every tower whose trunk learns.

    Gradients stay the same. Batch norms see each batch twice, so their running statistics follow it faster. Call it
    after `lock_towers`: a locked trunk keeps no activations and is left alone.

    Raises:
        ConfigError: a tower that cannot do it.
    """
    parts: tuple[tuple[Tower, Any], ...] = (("image", model.visual), ("text", text_part(model)))
    for tower, part in parts:
        if any(parameter.requires_grad for parameter in trunk_parameters(model, tower).values()):
            try:
                able = _checkpointed(part)
            except (AssertionError, AttributeError, ValueError, NotImplementedError):
                able = False
            if not able:
                name = getattr(getattr(part, "trunk", None), "default_cfg", {}).get("architecture", type(part).__name__)
                raise ConfigError(f"gradient checkpointing: the {tower} tower ({name}) cannot do it; switch it off")


def _checkpointed(part: Any) -> bool:
    match kind_of(part):
        case "TimmModel":
            # Not open_clip's method, which goes on without where timm refuses.
            part.trunk.set_grad_checkpointing(enable=True)
            return True
        case "HFTextEncoder":
            # Not re-entrant, as they are by default in transformers 4: those lose the gradients of a layer whose input
            # needs none, such as the first behind frozen ones. Version 5 has another name for the method.
            transformer = part.transformer
            enable = getattr(transformer, "activation_checkpointing_enable", transformer.gradient_checkpointing_enable)
            enable({"use_reentrant": False})
            return True
        case "VisionTransformer" | "TextTransformer" | "CLIP":
            # open_clip passes its custom blocks more arguments than they take.
            part.transformer.grad_checkpointing = True
            return all(kind_of(block) == "ResidualAttentionBlock" for block in part.transformer.resblocks)
    return False
