"""Two small towers, a batch and every kind of loss, for tests of gradients in one process and over ranks."""

import copy

import torch

from stillroom.config_io import build
from stillroom.train.config import EmaConfig
from stillroom.train.config_loss import LossConfig
from stillroom.train.gradients import Gradients
from stillroom.train.prepare import Part, Prepared
from stillroom.train.ranks import Ranks
from stillroom.train.student import MovingAverage, Student, build_heads, freeze_unreached

PAIRS = 11
CPU = torch.device("cpu")
ALONE = Ranks(rank=0, world=1, node_size=1, device=CPU, group=None)
LOSSES = {
    "InfoNCE, smoothed": {"contrastive": "info_nce", "label_smoothing": 0.1, "concept_weight": 0.0},
    "HN-NCE": {"concept_weight": 0.0},
    "HN-NCE, concepts": {"concept_weight": 0.7},
    "concepts alone": {"contrastive_weight": 0.0},
    "soft labels": {"contrastive_weight": 0.5, "soft_labels": {"weight": 0.5}},
    "soft labels alone": {"contrastive_weight": 0.0, "concept_weight": 0.0, "soft_labels": {"weight": 1.0}},
    "transport": {"soft_labels": {"weight": 0.3, "targets": "transport", "diagonal": False, "image_image": 1.0}},
}


class Towers(torch.nn.Module):
    """Two small towers with open_clip's interface."""

    def __init__(self, middle=None):
        super().__init__()
        self.visual = torch.nn.Sequential(torch.nn.Linear(6, 8), middle or torch.nn.Tanh(), torch.nn.Linear(8, 4))
        self.text = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))
        self.logit_scale = torch.nn.Parameter(torch.tensor(2.0))

    def encode_image(self, pictures):
        return self.visual(pictures)

    def encode_text(self, tokens):
        return self.text(tokens)


def batch(first=0, stop=PAIRS):
    """Return pairs `first` to `stop` of the same 11; of none, filler that would change any gradient it got into."""
    generator = torch.Generator().manual_seed(1)
    pictures, texts = torch.randn(PAIRS, 6, generator=generator), torch.randn(PAIRS, 5, generator=generator)
    ids = torch.randint(0, 7, (PAIRS, 2), generator=generator)
    probs = torch.rand(PAIRS, 2, generator=generator)
    probs = probs / probs.sum(1, keepdim=True)
    captions = torch.tensor([0, 1, 2, 3, 0, 4, 5, 6, 2, 7, 8])

    def part(rows):
        own = slice(first + rows.start, first + rows.stop)
        targets = {"objects": (ids[own], probs[own])}
        if first == stop:
            return Part(pictures=torch.full((2, 6), 3.0), texts=torch.full((2, 5), 3.0), targets=targets)
        return Part(pictures=pictures[own], texts=texts[own], targets=targets)

    return Prepared(caption_ids=captions[first:stop], part=part)


def gradients(loss, micro_batch, *, middle=None, precision="fp32", scaled=False, frozen_text=False):
    """Return what fills the gradients of a student with fixed weights; `scaled` by a scaler that is at work."""
    torch.manual_seed(0)
    config = build(LossConfig, loss, source="test")
    sizes = {"objects": 7} if config.concept_weight > 0 else {}
    soft = 20.0 if config.soft_labels.weight > 0 else None
    student = Student(Towers(copy.deepcopy(middle)), build_heads(4, sizes), soft_scale=soft)
    freeze_unreached(student, config)
    if frozen_text:
        student.model.text.requires_grad_(False)
    average = MovingAverage(student, EmaConfig(decay=0.9))
    with torch.no_grad():  # a teacher that differs
        for (name, parameter), own in zip(average.module.named_parameters(), student.parameters(), strict=True):
            changed = parameter + 0.3 * torch.randn(parameter.shape)
            if parameter is own:  # frozen and shared
                owner, _, last = name.rpartition(".")
                setattr(average.module.get_submodule(owner), last, torch.nn.Parameter(changed, requires_grad=False))
            else:
                parameter.copy_(changed)
    return Gradients(
        student=student.train(),
        wrapped=student,
        average=average,
        loss=config,
        ranks=ALONE,
        precision=precision,
        scaler=torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled),
        micro_batch=micro_batch,
    )


def filled(made):
    """Return the gradients of what learns by name, without the scaler's factor."""
    factor = made.scaler.get_scale()
    return {
        name: None if parameter.grad is None else parameter.grad / factor
        for name, parameter in made.student.named_parameters()
        if parameter.requires_grad
    }


def close(first, second, tolerance=1e-4):
    """Whether two sets of gradients are equal but for rounding, which is all there is of a bias before batch norm."""
    return first.keys() == second.keys() and all(
        torch.allclose(
            first[name], second[name], rtol=tolerance, atol=2e-6 + 0.1 * tolerance * float(first[name].abs().max())
        )
        for name in first
    )
