"""The parts of open_clip's towers: trunk and projection, which parameter is whose, and texts without their padding.

One rule for every kind of tower: the projection is what turns features into the embedding, the trunk is all before it.

| tower | trunk gives | projection |
|---|---|---|
| `TimmModel` | pooled features; before attention pooling the map | `head`; if that is empty, timm's classifier |
| `VisionTransformer` | pooled, normed token (B, W) | `proj` |
| `ModifiedResNet` | attention pooling before its last layer (B, W) | `attnpool.c_proj` |
| `HFTextEncoder` | pooled hidden states (B, W) | `proj`, linear or MLP |
| `TextTransformer`, and `CLIP`'s own | pooled, normed token (B, W) | `text_projection` |

A tower without a projection, or of another kind, is all trunk. Shapes: B samples, L tokens, W features, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

Tower = Literal["image", "text"]
# open_clip's CLIP keeps the parts of its text tower on itself.
_TEXT_NAMES = {"text", "transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection"}


def kind_of(module: Any) -> str:
    """Return the class name of a module that open_clip itself defines, else ""."""
    return type(module).__name__ if type(module).__module__.startswith("open_clip.") else ""


def text_part(model: Any) -> Any:
    """Return the module that holds the text tower's parts: `model.text`, or the model itself for open_clip's CLIP."""
    tower: Any = getattr(model, "text", None)
    return model if tower is None else tower


def projection(model: Any, tower: Tower) -> Any:
    """Return what turns a tower's features into its embedding: a module, a (W, D) parameter, or None."""
    return _image_projection(model.visual) if tower == "image" else _text_projection(text_part(model))


def _image_projection(visual: Any) -> Any:
    import torch

    match kind_of(visual):
        case "TimmModel":
            if len(visual.head):
                return visual.head
            classifier = visual.trunk.get_classifier()
            return classifier if isinstance(classifier, torch.nn.Linear) else None
        case "VisionTransformer" if not visual.output_tokens:
            return visual.proj
        case "ModifiedResNet":
            return visual.attnpool.c_proj
    return None


def _text_projection(tower: Any) -> Any:
    match kind_of(tower):
        case "HFTextEncoder" if not tower.output_tokens:
            return tower.proj
        case "CLIP":
            return tower.text_projection
        case "TextTransformer" if not tower.output_tokens:
            return tower.text_projection
    return None


def tower_parameters(model: Any) -> dict[str, Literal["image", "text", "other"]]:
    """Return whose each parameter is, by its name: the image tower's, the text tower's, or neither's (the scale)."""
    return {name: _owner(name) for name, _ in model.named_parameters()}


def _owner(name: str) -> Literal["image", "text", "other"]:
    first = name.partition(".")[0]
    if first == "visual":
        return "image"
    return "text" if first in _TEXT_NAMES else "other"


def trunk_parameters(model: Any, tower: Tower) -> dict[str, Any]:
    """Return the parameters of a tower by name, those of its projection left out."""
    head = projection(model, tower)
    behind = {id(parameter) for parameter in (head.parameters() if hasattr(head, "parameters") else [head])}
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if _owner(name) == tower and id(parameter) not in behind
    }


def trunk_state(model: Any, tower: Tower) -> dict[str, Any]:
    """Return the tensors that a tower's features depend on, by name: what to identify stored features by."""
    learnt = trunk_parameters(model, tower)
    names = {name for name, _ in model.named_parameters()}
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if _owner(name) == tower and (name in learnt or name not in names)
    }


def image_trunk(model: Any, pictures: Any) -> Any:
    """Return what the image tower computes before its projection, (B, W), or (B, W, h, w) before attention pooling.

    Args:
        model: an open_clip model.
        pictures: (B, 3, H, W) preprocessed pixels.
    """
    visual = model.visual
    head = _image_projection(visual)
    match kind_of(visual):
        case "TimmModel" if head is not None:
            if head is visual.head:
                return visual.trunk(pictures)
            return visual.trunk.forward_head(visual.trunk.forward_features(pictures), pre_logits=True)
        case "VisionTransformer" if head is not None:
            with _without(visual, "proj"):
                return visual(pictures)
        case "ModifiedResNet":
            return _attention_pool(visual, pictures)
    return model.encode_image(pictures)


def image_head(model: Any) -> Callable[[Any], Any]:
    """Return the function from `image_trunk`'s result to the image embedding (B, D), not normalised."""
    return _applied(projection(model, "image"))


def text_trunk(model: Any, tokens: Any) -> Any:
    """Return what the text tower computes before its projection, (B, W).

    Args:
        model: an open_clip model.
        tokens: (B, L) int64, as the tokenizer gives them or cut by `trim_padding`.
    """
    tower = text_part(model)
    if _stops_at_end(tower):
        return _causal_features(tower, tokens)
    if _text_projection(tower) is None:
        return model.encode_text(tokens)
    if kind_of(tower) == "HFTextEncoder":
        mask = (tokens != tower.config.pad_token_id).long()
        return tower.pooler(tower.transformer(input_ids=tokens, attention_mask=mask), mask)
    with _without(tower, "text_projection"):
        return model.encode_text(tokens)


def text_head(model: Any) -> Callable[[Any], Any]:
    """Return the function from `text_trunk`'s result to the text embedding (B, D), not normalised."""
    return _applied(projection(model, "text"))


def _applied(head: Any) -> Callable[[Any], Any]:
    import torch

    if head is None:
        return torch.nn.Identity()
    return head if isinstance(head, torch.nn.Module) else partial(torch.matmul, other=head)


def encode_text(model: Any, tokens: Any) -> Any:
    """Return the text embeddings (B, D), not normalised, like the model's own, also of tokens that were trimmed.

    open_clip's causal towers want all their positions; the causal mask of fewer is the first part of theirs.
    """
    tower = text_part(model)
    if _stops_at_end(tower) and tokens.shape[1] < tower.context_length:
        return text_head(model)(_causal_features(tower, tokens))
    return model.encode_text(tokens)


def trim_padding(model: Any, tokens: Any) -> Any:
    """Cut the trailing columns that no row's embedding depends on; the rest goes through `encode_text`, `text_trunk`.

    Those are padding in every row where the tower masks padding out (Hugging Face), and all behind the last row's end
    token where attention is causal and the end token is pooled (CLIP). Other towers keep every column.
    """
    tower = text_part(model)
    if _stops_at_end(tower):
        return tokens[:, : int(_end_positions(tower, tokens).max()) + 1]
    pad = tower.config.pad_token_id if kind_of(tower) == "HFTextEncoder" else None
    if pad is None:
        return tokens
    used = (tokens != pad).any(dim=0).nonzero()
    return tokens[:, : int(used.max()) + 1 if len(used) else 1]


def _stops_at_end(tower: Any) -> bool:
    # Causal attention, pooled at a token whose place the tokens themselves tell; an appended class token (CoCa) sees
    # every column, and "last" pools the last column whatever it holds.
    if kind_of(tower) not in ("CLIP", "TextTransformer") or getattr(tower, "output_tokens", False):
        return False
    return tower.attn_mask is not None and getattr(tower, "cls_emb", None) is None and _pool(tower) in ("argmax", "eos")


def _pool(tower: Any) -> str:
    return tower.text_pool_type if kind_of(tower) == "CLIP" else tower.pool_type


def _end_positions(tower: Any, tokens: Any) -> Any:
    if _pool(tower) == "eos":
        end = tower.text_eos_id if kind_of(tower) == "CLIP" else tower.eos_id
        return (tokens == end).int().argmax(dim=1)
    return tokens.argmax(dim=1)


def _causal_features(tower: Any, tokens: Any) -> Any:
    # open_clip's own forward up to the projection, with the positions and the mask cut to the tokens' length.
    import torch

    length, dtype = tokens.shape[1], tower.transformer.get_cast_dtype()
    x = tower.token_embedding(tokens).to(dtype) + tower.positional_embedding[:length].to(dtype)
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    rows = torch.arange(len(tokens), device=tokens.device)
    return tower.ln_final(x[rows, _end_positions(tower, tokens)])


def _attention_pool(visual: Any, pictures: Any) -> Any:
    # open_clip's attention pool asks every position and keeps the first answer; here only the first asks.
    import torch

    pool = visual.attnpool
    x = visual.stem(pictures)
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        x = layer(x)
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1)
    x = x + pool.positional_embedding.to(x.dtype)
    parts = (pool.q_proj(x[:, :1]), pool.k_proj(x), pool.v_proj(x))
    heads = [part.unflatten(2, (pool.num_heads, -1)).transpose(1, 2) for part in parts]
    return torch.nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(1)


@contextmanager
def _without(module: Any, name: str) -> Iterator[None]:
    # open_clip's towers return their features where the projection is None.
    kept = getattr(module, name)
    setattr(module, name, None)
    try:
        yield
    finally:
        setattr(module, name, kept)
