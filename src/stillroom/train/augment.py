"""Random changes to a batch of pictures: drawn for the whole batch, applied where the pictures lie.

Draws are made for every place of a step's batch, whatever rank it is on: so they depend on the seed and the step only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from stillroom.train.config import AugmentConfig


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What was drawn for B pictures.

    Attributes:
        boxes: (B, 2, 3) float, affine maps from the result's square [-1, 1]^2 into the picture's.
        mix: (B, 3, 3) float, from old channels to new ones; None leaves all colours.
        offset: (B, 3) float, added to the new channels.
    """

    boxes: Any
    mix: Any
    offset: Any

    def at(self, positions: Any) -> Draws:
        """Return the draws of some of the places."""
        mix = None if self.mix is None else self.mix[positions]
        return Draws(boxes=self.boxes[positions], mix=mix, offset=self.offset[positions])


def draw(count: int, config: AugmentConfig, generator: torch.Generator) -> Draws:
    """Draw the changes of `count` pictures from a CPU generator.

    Boxes have an area in [min_crop, 1] of the picture and are stretched by at most `max_aspect`; see `random_mix` for
    colours.
    """
    boxes = random_boxes(count, config, generator)
    if config.grayscale == 0 and config.recolor == 0:
        return Draws(boxes=boxes, mix=None, offset=torch.zeros(count, 3))
    mix, offset = random_mix(count, config, generator)
    return Draws(boxes=boxes, mix=mix, offset=offset)


def random_boxes(count: int, config: AugmentConfig, generator: torch.Generator) -> Any:
    """Draw crop boxes inside the picture as affine maps, (count, 2, 3).

    The area is uniform in [min_crop, 1], and the log of the aspect in what `max_aspect` and the area allow: a box of
    area a fits into the picture up to an aspect of 1 / a. (Cutting off what sticks out would leave a smaller area.)
    """
    area = torch.empty(count).uniform_(config.min_crop, 1.0, generator=generator)
    aspect = torch.ones(count)
    if config.max_aspect > 1:
        reach = (-area.log()).clamp(max=math.log(config.max_aspect))
        aspect = (reach * torch.empty(count).uniform_(-1.0, 1.0, generator=generator)).exp()
    # No more than rounding is cut off here.
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    x, y = (torch.empty(count).uniform_(-1.0, 1.0, generator=generator) for _ in range(2))
    boxes = torch.zeros(count, 2, 3)
    boxes[:, 0, 0], boxes[:, 0, 2] = width, x * (1 - width)
    boxes[:, 1, 1], boxes[:, 1, 2] = height, y * (1 - height)
    return boxes


def random_mix(count: int, config: AugmentConfig, generator: torch.Generator) -> tuple[Any, Any]:
    """Draw which pictures lose or change their colours: matrices (count, 3, 3) and offsets (count, 3).

    Line drawings are black, stickers are bright: a model for both must not lean on colour alone (our choice).
    """
    chance = torch.rand(count, generator=generator)
    mix = torch.eye(3).repeat(count, 1, 1)
    offset = torch.zeros(count, 3)
    luma = torch.tensor([0.299, 0.587, 0.114]).expand(3, 3)
    mix[chance < config.grayscale] = luma
    chosen = (chance >= config.grayscale) & (chance < config.grayscale + config.recolor)
    # Each output channel goes linearly from a random dark to a random light shade over the picture's own brightness
    # mixed with its own channels: black on white becomes any colour on any other.
    low, high = torch.rand(2, count, 3, generator=generator)
    share = torch.rand(count, 1, 1, generator=generator)
    remixed = (high - low).unsqueeze(-1) * (share * luma + (1 - share) * torch.eye(3))
    mix[chosen], offset[chosen] = remixed[chosen], low[chosen]
    return mix, offset


def apply(images: Any, draws: Draws, side: int) -> Any:
    """Crop each picture's box, resample it bilinearly, and change its colours.

    Args:
        images: (B, 3, S, S) float in [0, 1].
        draws: of these B pictures.
        side: of the result, pixels.

    Returns:
        (B, 3, side, side), same dtype and device, in [0, 1].
    """
    grid = F.affine_grid(draws.boxes.to(images), [len(images), images.shape[1], side, side], align_corners=False)
    cut = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    if draws.mix is None:
        return cut
    return torch.einsum("bij,bjhw->bihw", draws.mix.to(cut), cut) + draws.offset.to(cut)[:, :, None, None]
