"""The losses over 2 and 3 gloo processes equal one process with all pairs: value, gradients, scale.

Three processes start once and run every case, on a group of all three and on a group of the last two, whose ranks
in the group are not their ranks in the world.
"""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from stillroom.errors import ConfigError, DataError
from stillroom.train.losses import gather, hard_negative_nce, info_nce, self_distillation, transport_distillation

# World ranks and numbers of pairs; together 17 pairs each time.
GROUPS = {
    "2 ranks": ((1, 2), (5, 12)),
    "3 ranks": ((0, 1, 2), (6, 1, 10)),
    "3 ranks, one empty": ((0, 1, 2), (8, 0, 9)),
}
PAIRS = 17
# Captions repeat within ranks and across them.
CAPTIONS = torch.tensor([0, 1, 2, 3, 0, 4, 5, 1, 6, 7, 0, 8, 9, 10, 11, 9, 2])


def inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(PAIRS, 6, generator=generator) for _ in range(4)]
    tensors[1] = tensors[0] + tensors[1]
    tensors[3] = tensors[2] + tensors[3]
    return [F.normalize(tensor, dim=1).to(dtype) for tensor in tensors], torch.tensor(9.0, dtype=dtype)


def _self_distillation(i, t, ti, tt, s, **kw):
    return self_distillation(i, t, ti, tt, s, 12.0, image_image=0.3, text_text=0.2, diagonal=False, **kw)


CASES = {
    "info_nce": lambda i, t, ti, tt, s, **kw: info_nce(i, t, s, **kw),
    "info_nce, label smoothing": lambda i, t, ti, tt, s, **kw: info_nce(i, t, s, label_smoothing=0.1, **kw),
    "hard_negative_nce": lambda i, t, ti, tt, s, **kw: hard_negative_nce(i, t, s, **kw),
    "hard_negative_nce, decoupled": lambda i, t, ti, tt, s, **kw: hard_negative_nce(i, t, s, alpha=0.0, **kw),
    # The ranks' log-sums of a column lie hundreds apart here.
    "hard_negative_nce, scale 900": lambda i, t, ti, tt, s, **kw: hard_negative_nce(i, t, 100 * s, **kw),
    "self_distillation": _self_distillation,
    "transport_distillation": lambda i, t, ti, tt, s, **kw: transport_distillation(i, t, ti, tt, s, **kw),
    "a plan per rank": lambda i, t, ti, tt, s, **kw: transport_distillation(i, t, ti, tt, s, over_ranks=False, **kw),
}
IDS = {"distinct": None, "equal captions": CAPTIONS}
# Which of image, text and scale are constants, on every rank.
FROZEN = {"text": {1}, "image and scale": {0, 2}}
FROZEN_CASES = ("info_nce, label smoothing", "hard_negative_nce", "self_distillation", "transport_distillation")


def _without_gradient(i, t, s, **kw):
    with torch.no_grad():
        return hard_negative_nce(i, t, s, **kw)


def _short(kw):
    return {**kw, "caption_ids": kw["caption_ids"][:-1]}


# All ranks call HN-NCE or, where its name is in the title, OTTER's loss; the second of "2 ranks" in another way. What
# the error then says on both.
DISAGREEMENTS = {
    "caption_ids": (
        lambda i, t, ti, tt, s, **kw: hard_negative_nce(i, t, s, **{**kw, "caption_ids": None}),
        DataError("caption_ids is given on rank 0 and not given on rank 1"),
    ),
    "width": (
        lambda i, t, ti, tt, s, **kw: hard_negative_nce(i[:, :4], t[:, :4], s, **kw),
        DataError("embedding width is 6 on rank 0 and 4 on rank 1"),
    ),
    "number type": (
        lambda i, t, ti, tt, s, **kw: hard_negative_nce(i.double(), t, s, **kw),
        DataError("number type is float32 on rank 0 and float64 on rank 1"),
    ),
    "frozen text": (
        lambda i, t, ti, tt, s, **kw: hard_negative_nce(i, t.detach(), s, **kw),
        DataError("inputs with gradient is image, text, scale on rank 0 and image, scale on rank 1"),
    ),
    "no_grad": (
        lambda i, t, ti, tt, s, **kw: _without_gradient(i, t, s, **kw),
        DataError("inputs with gradient is image, text, scale on rank 0 and none on rank 1"),
    ),
    "beta": (
        lambda i, t, ti, tt, s, **kw: hard_negative_nce(i, t, s, beta=0.0, **kw),
        DataError("beta is 0.25 on rank 0 and 0.0 on rank 1"),
    ),
    "another loss": (
        lambda i, t, ti, tt, s, **kw: info_nce(i, t, s, **kw),
        DataError("loss is hard_negative_nce on rank 0 and info_nce on rank 1"),
    ),
    "shapes": (
        lambda i, t, ti, tt, s, **kw: hard_negative_nce(i, t[:-1], s, **kw),
        DataError("on rank 1: image and text embeddings have shapes (12, 6) and (11, 6)"),
    ),
    "caption_ids' shape": (
        lambda i, t, ti, tt, s, **kw: hard_negative_nce(i, t, s, **_short(kw)),
        DataError("on rank 1: caption_ids is torch.int64 of shape (11,)"),
    ),
    "scale": (
        lambda i, t, ti, tt, s, **kw: hard_negative_nce(i, t, -s, **kw),
        ConfigError("on rank 1: scale is -9; give"),
    ),
    "alpha out of range": (
        lambda i, t, ti, tt, s, **kw: hard_negative_nce(i, t, s, alpha=2.0, **kw),
        ConfigError("on rank 1: alpha is 2"),
    ),
    "OTTER: teacher's width": (
        lambda i, t, ti, tt, s, **kw: transport_distillation(i, t, ti[:, :5], tt[:, :5], s, **kw),
        DataError("teacher's embedding width is 6 on rank 0 and 5 on rank 1"),
    ),
    "OTTER: teacher's pairs": (
        lambda i, t, ti, tt, s, **kw: transport_distillation(i, t, ti[:-1], tt[:-1], s, **kw),
        DataError("on rank 1: the teacher has 11 pairs and the student 12"),
    ),
    "OTTER: iterations": (
        lambda i, t, ti, tt, s, **kw: transport_distillation(i, t, ti, tt, s, iterations=-1, **kw),
        ConfigError("on rank 1: iterations is -1"),
    ),
}


def refusals(place, tensors, **kw):
    """What every disagreement raises on this rank, and that the ranks get on afterwards."""
    said = {}
    for how, (otherwise, _) in DISAGREEMENTS.items():
        usual = CASES["transport_distillation" if "OTTER" in how else "hard_negative_nce"]
        try:
            (otherwise if place == 1 else usual)(*tensors, **kw)
        except (ConfigError, DataError) as error:
            said[how] = (type(error).__name__, str(error))
    said["afterwards"] = float(CASES["hard_negative_nce"](*tensors, **kw).detach())
    return said


def value_and_gradients(loss, leaves):
    # The factor stands for a term's weight in the total loss.
    return [loss.detach(), *torch.autograd.grad(2.0 * loss, leaves)]


def no_reduce_scatter(*args, **kwargs):
    raise RuntimeError("ProcessGroupGloo does not support reduce_scatter")  # as before PyTorch 2.8


def run(rank, rendezvous, results):
    torch.set_num_threads(1)
    reduce_scatter, dist.reduce_scatter = dist.reduce_scatter, no_reduce_scatter
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=3, timeout=timedelta(seconds=60)
    )
    (image, text, teacher_image, teacher_text), scale = inputs()
    outcome = {}
    for group_name, (ranks, counts) in GROUPS.items():
        group = dist.new_group(list(ranks))
        if rank not in ranks:
            continue
        place = ranks.index(rank)
        own = slice(sum(counts[:place]), sum(counts[: place + 1]))
        for case, loss in CASES.items():
            for ids_name, ids in IDS.items():
                leaves = [tensor.clone().requires_grad_() for tensor in (image[own], text[own], scale)]
                own_ids = None if ids is None else ids[own]
                value = loss(
                    *leaves[:2], teacher_image[own], teacher_text[own], leaves[2], caption_ids=own_ids, group=group
                )
                outcome[group_name, case, ids_name] = value_and_gradients(value, leaves)
        teacher = [teacher_image[own], teacher_text[own]]
        for case in FROZEN_CASES:
            for frozen_name, frozen in FROZEN.items():
                given = [image[own], text[own], scale]
                given = [t.clone().requires_grad_(i not in frozen) for i, t in enumerate(given)]
                value = CASES[case](*given[:2], *teacher, given[2], caption_ids=CAPTIONS[own], group=group)
                leaves = [tensor for tensor in given if tensor.requires_grad]
                outcome[group_name, case, "frozen", frozen_name] = value_and_gradients(value, leaves)
        if group_name == "2 ranks":
            leaves = [tensor.clone().requires_grad_() for tensor in (image[own], text[own], scale)]
            outcome["refusals"] = refusals(
                place, (*leaves[:2], *teacher, leaves[2]), caption_ids=CAPTIONS[own], group=group
            )
        # What NCCL uses, in the one group where all ranks have another number of pairs.
        if group_name == "3 ranks":
            dist.reduce_scatter, gather._scatters_sums = reduce_scatter, lambda rows, group: True
            leaves = [tensor.clone().requires_grad_() for tensor in (image[own], text[own], scale)]
            value = hard_negative_nce(*leaves, caption_ids=CAPTIONS[own], group=group)
            outcome["reduce_scatter"] = value_and_gradients(value, leaves)
            dist.reduce_scatter, gather._scatters_sums = no_reduce_scatter, lambda rows, group: False
    torch.save(outcome, f"{results}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(run, (folder / "rendezvous", folder), nprocs=3)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(3)]


def one_process(case, ids_name):
    (image, text, teacher_image, teacher_text), scale = inputs(torch.float64)
    leaves = [tensor.requires_grad_() for tensor in (image, text, scale)]
    loss = CASES[case](*leaves[:2], teacher_image, teacher_text, leaves[2], caption_ids=IDS[ids_name])
    return value_and_gradients(loss, leaves)


@pytest.mark.parametrize("ids_name", IDS)
@pytest.mark.parametrize("case", [case for case in CASES if case != "a plan per rank"])
@pytest.mark.parametrize("group_name", GROUPS)
def test_ranks_together_equal_one_process(outcomes, group_name, case, ids_name):
    ranks, counts = GROUPS[group_name]
    parts = [outcomes[rank][group_name, case, ids_name] for rank in ranks]
    values, images, texts, scales = zip(*parts, strict=True)
    world = len(ranks)
    assert tuple(len(image) for image in images) == counts
    # Averaged over ranks, as DDP averages the parameters' gradients: an embedding has gradient on its own rank only.
    actual = [sum(values) / world, torch.cat(images) / world, torch.cat(texts) / world, sum(scales) / world]
    # float32 scores of 900 are exact to 1e-4.
    precision = 1e-3 if "900" in case else 1e-5
    for got, wanted in zip(actual, one_process(case, ids_name), strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=precision, atol=precision * float(wanted.abs().max()))


@pytest.mark.parametrize("frozen_name", FROZEN)
@pytest.mark.parametrize("case", FROZEN_CASES)
@pytest.mark.parametrize("group_name", GROUPS)
def test_frozen_inputs_change_no_other_gradient(outcomes, group_name, case, frozen_name):
    ranks, _ = GROUPS[group_name]
    parts = [outcomes[rank][group_name, case, "frozen", frozen_name] for rank in ranks]
    kept = [place for place in range(3) if place not in FROZEN[frozen_name]]
    value, *gradients = one_process(case, "equal captions")
    actual = [sum(part[0] for part in parts) / len(ranks)]
    for place in kept:
        own = [part[1 + kept.index(place)] for part in parts]
        actual.append((sum(own) if place == 2 else torch.cat(own)) / len(ranks))
    for got, wanted in zip(actual, [value, *(gradients[place] for place in kept)], strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def test_sums_are_scattered_where_the_back_end_can(outcomes):
    for rank in range(3):
        expected = outcomes[rank]["3 ranks", "hard_negative_nce", "equal captions"]
        for got, wanted in zip(outcomes[rank]["reduce_scatter"], expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", DISAGREEMENTS)
def test_ranks_that_disagree_all_raise_the_same(outcomes, how):
    error = DISAGREEMENTS[how][1]
    first, second = (outcomes[rank]["refusals"][how] for rank in GROUPS["2 ranks"][0])
    assert first == second
    assert first[0] == type(error).__name__
    assert str(error) in first[1]


def test_a_refused_batch_leaves_the_ranks_in_step(outcomes):
    values = [outcomes[rank]["refusals"]["afterwards"] for rank in GROUPS["2 ranks"][0]]
    whole = float(one_process("hard_negative_nce", "equal captions")[0])
    assert sum(values) / 2 == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("case", ["info_nce", "hard_negative_nce", "self_distillation"])
def test_a_rank_returns_its_own_rows_only(outcomes, case):
    ranks, counts = GROUPS["2 ranks"]
    first = outcomes[ranks[0]]["2 ranks", case, "distinct"][0]
    second = outcomes[ranks[1]]["2 ranks", case, "distinct"][0]
    whole = one_process(case, "distinct")[0]
    torch.testing.assert_close((first + second).double() / 2, whole, rtol=1e-5, atol=1e-6)
    assert not torch.isclose(first, second, rtol=1e-2)


@pytest.mark.parametrize("ids_name", IDS)
def test_a_plan_per_rank_uses_the_ranks_own_rows(outcomes, ids_name):
    ranks, _ = GROUPS["2 ranks"]
    value = sum(outcomes[rank]["2 ranks", "a plan per rank", ids_name][0] for rank in ranks) / 2
    joint = sum(outcomes[rank]["2 ranks", "transport_distillation", ids_name][0] for rank in ranks) / 2
    assert bool(value.isfinite())
    assert not torch.isclose(value, joint, rtol=1e-3)
    torch.testing.assert_close(value.double(), per_rank_plans(IDS[ids_name]), rtol=1e-5, atol=1e-6)


def per_rank_plans(ids):
    """Both ranks' losses from plans over their rows alone, written out densely; all 17 columns, 5 and 12 rows."""
    (image, text, teacher_image, teacher_text), scale = inputs(torch.float64)
    own = torch.eye(PAIRS, dtype=torch.bool)
    equal = own if ids is None else ids[:, None] == ids[None, :]
    mutual = teacher_image @ teacher_image.T + teacher_text @ teacher_text.T
    total = 0.0
    for student, teacher in (
        (image @ text.T, teacher_image @ teacher_text.T),
        (text @ image.T, teacher_text @ teacher_image.T),
    ):
        for rows in (slice(0, 5), slice(5, 17)):
            plan = ((teacher + mutual)[rows] / 0.15).exp().masked_fill(equal[rows], 0.0)
            for _ in range(5):
                plan = plan / plan.sum(1, keepdim=True)
                plan = plan / plan.sum(0, keepdim=True).clamp_min(1e-300)
            target = plan / plan.sum(1, keepdim=True)
            left_out = equal[rows] & ~own[rows]
            predicted = (scale * student[rows]).masked_fill(left_out, -torch.inf).log_softmax(1)
            total = total + F.kl_div(predicted.masked_fill(left_out, 0.0), target, reduction="sum")
    return total / (2 * PAIRS)
