"""Distillation from a teacher's soft labels and from transport plans, against plain dense versions."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from stillroom.errors import ConfigError, DataError
from stillroom.train.losses import self_distillation, soft_targets, transport_distillation


def batch(n, *, width=6, teacher_width=5, seed=0, dtype=torch.float64):
    """Student image and text, teacher image and text, student scale."""
    generator = torch.Generator().manual_seed(seed)
    tensors = []
    for dimensions in (width, teacher_width):
        shared = torch.randn(n, dimensions, generator=generator, dtype=torch.float64)
        for _ in range(2):
            noise = torch.randn(n, dimensions, generator=generator, dtype=torch.float64)
            tensors.append(F.normalize(shared + noise, dim=1))
    tensors.append(torch.tensor(7.0, dtype=torch.float64))
    image, text, teacher_image, teacher_text, scale = (tensor.to(dtype) for tensor in tensors)
    return image.requires_grad_(), text.requires_grad_(), teacher_image, teacher_text, scale.requires_grad_()


def similarity(teacher_image, teacher_text, image_image, text_text):
    mutual = image_image * teacher_image @ teacher_image.T + text_text * teacher_text @ teacher_text.T
    return teacher_image @ teacher_text.T + mutual


def rivals(ids, n):
    """Other pairs with an equal caption."""
    own = torch.eye(n, dtype=torch.bool)
    return torch.zeros_like(own) if ids is None else (ids[:, None] == ids[None, :]) & ~own


def dense_divergence(scores, targets, left_out):
    """KL(target || softmax(scores)), summed over rows, on the entries that are not left out."""
    total = scores.sum() * 0.0
    for row, target, mask in zip(scores, targets, left_out, strict=True):
        predicted, kept_target = row[~mask].log_softmax(0), target[~mask]
        positive = kept_target > 0
        total = total + (kept_target[positive] * (kept_target[positive].log() - predicted[positive])).sum()
    return total


def plain_self_distillation(
    image, text, teacher_image, teacher_text, scale, *, teacher_scale, ids=None, diagonal=True, **weights
):
    n = len(image)
    teacher = teacher_scale * similarity(teacher_image, teacher_text, **weights)
    left_out = rivals(ids, n)
    no_target = left_out if diagonal else left_out | torch.eye(n, dtype=torch.bool)
    total = 0.0
    for z, t in ((scale * image @ text.T, teacher), (scale * text @ image.T, teacher.T)):
        targets = t.masked_fill(no_target, -math.inf).softmax(1).nan_to_num(0.0)
        total = total + dense_divergence(z, targets, left_out)
    return total / (2 * n)


def transport_targets(scores, forbidden, regularisation, iterations):
    """Sinkhorn-Knopp as OTTER's script writes it: exponentials, rows to 1/n, columns to 1/n, rows normalised last."""
    plan = (scores / regularisation).exp().masked_fill(forbidden, 0.0)
    plan = plan / plan.sum()
    n = len(plan)
    for _ in range(iterations):
        plan = plan / plan.sum(1, keepdim=True).clamp_min(1e-300) / n
        plan = plan / plan.sum(0, keepdim=True).clamp_min(1e-300) / n
    return plan / plan.sum(1, keepdim=True).clamp_min(1e-300)


def plain_transport_distillation(
    image, text, teacher_image, teacher_text, scale, *, regularisation, iterations, diagonal, ids=None, **weights
):
    n = len(image)
    teacher = similarity(teacher_image, teacher_text, **weights)
    left_out = rivals(ids, n)
    forbidden = left_out if diagonal else left_out | torch.eye(n, dtype=torch.bool)
    total = 0.0
    for z, t in ((scale * image @ text.T, teacher), (scale * text @ image.T, teacher.T)):
        total = total + dense_divergence(z, transport_targets(t, forbidden, regularisation, iterations), left_out)
    return total / (2 * n)


def value_and_gradients(loss, inputs):
    return [loss.detach(), *torch.autograd.grad(loss, inputs)]


def differentiated(inputs):
    return [inputs[0], inputs[1], inputs[4]]


IDS = {"distinct": None, "some equal": torch.tensor([0, 1, 2, 0, 3, 1, 4, 0, 5])}


@pytest.fixture(params=["one chunk", "small chunks"])
def chunking(request, monkeypatch):
    if request.param == "small chunks":
        monkeypatch.setattr(soft_targets, "_CPU_CHUNK_ELEMENTS", 20)
        monkeypatch.setattr(soft_targets, "_KEPT_KERNEL_ELEMENTS", 10)


@pytest.mark.usefixtures("chunking")
@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize(
    "settings",
    [
        {"image_image": 0.0, "text_text": 0.0, "diagonal": True},
        {"image_image": 0.0, "text_text": 0.0, "diagonal": False},
        {"image_image": 0.5, "text_text": 0.0, "diagonal": True},
        {"image_image": 0.3, "text_text": 0.7, "diagonal": False},
    ],
)
def test_self_distillation_follows_its_definition(settings, ids):
    inputs = batch(9)
    actual = self_distillation(*inputs, 4.0, caption_ids=IDS[ids], **settings)
    expected = plain_self_distillation(*inputs, teacher_scale=4.0, ids=IDS[ids], **settings)
    wanted = value_and_gradients(expected, differentiated(inputs))
    torch.testing.assert_close(value_and_gradients(actual, differentiated(inputs)), wanted)


def test_self_distillation_by_hand():
    eye = torch.eye(2, dtype=torch.float64)
    # The teacher gives 3/4 and 1/4, the student 1/2 and 1/2 in every row and column.
    student = torch.zeros(2, 2, dtype=torch.float64)
    loss = self_distillation(student, eye, eye, eye, torch.tensor(9.0), math.log(3.0))
    assert float(loss) == pytest.approx(3 / 4 * math.log(3 / 2) + 1 / 4 * math.log(1 / 2), abs=1e-12)
    # The other way round, KL(student || teacher) would be 0.1438; this is 0.1308.
    assert float(loss) == pytest.approx(0.13081, abs=1e-5)
    assert float(self_distillation(student, eye, eye, eye, torch.tensor(9.0), 0.0)) == pytest.approx(0.0, abs=1e-12)
    # Without the pair itself the one other entry is the whole target.
    alone = self_distillation(student, eye, eye, eye, torch.tensor(9.0), 1.0, diagonal=False)
    assert float(alone) == pytest.approx(math.log(2), abs=1e-12)


def test_a_student_like_its_teacher_costs_and_learns_nothing():
    image, text, _, _, scale = batch(8)
    loss = self_distillation(image, text, image, text, scale, scale)
    value, *gradients = value_and_gradients(loss, [image, text, scale])
    assert float(value) == pytest.approx(0.0, abs=1e-12)
    for gradient in gradients:
        torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_the_teacher_gets_no_gradient():
    image, text, teacher_image, teacher_text, scale = batch(5)
    teacher = [teacher_image.requires_grad_(), teacher_text.requires_grad_()]
    teacher_scale = torch.tensor(3.0, requires_grad=True)
    self_distillation(image, text, *teacher, scale, teacher_scale).backward()
    transport_distillation(image, text, *teacher, scale).backward()
    assert image.grad is not None
    assert [tensor.grad for tensor in (*teacher, teacher_scale)] == [None, None, None]


def test_mutual_similarity_with_the_diagonal_collapses_the_targets():
    image, text, teacher_image, teacher_text, scale = (tensor.detach() for tensor in batch(32, teacher_width=32))
    one_hot_loss = F.cross_entropy(scale * image @ text.T, torch.arange(32))
    one_hot_loss = (one_hot_loss + F.cross_entropy(scale * text @ image.T, torch.arange(32))) / 2
    arguments = (image, text, teacher_image, teacher_text, scale, 100.0)
    collapsed = self_distillation(*arguments, image_image=1.0, text_text=1.0)
    torch.testing.assert_close(collapsed, one_hot_loss, rtol=1e-6, atol=1e-6)
    soft = self_distillation(*arguments, image_image=1.0, text_text=1.0, diagonal=False)
    assert not torch.isclose(soft, one_hot_loss, rtol=0.05)


@pytest.mark.usefixtures("chunking")
@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("iterations", [0, 1, 5])
def test_transport_distillation_follows_its_definition(iterations, diagonal, ids):
    inputs = batch(9)
    settings = {"iterations": iterations, "diagonal": diagonal, "regularisation": 0.15}
    weights = {"image_image": 1.0, "text_text": 0.5}
    actual = transport_distillation(*inputs, caption_ids=IDS[ids], **settings, **weights)
    expected = plain_transport_distillation(*inputs, ids=IDS[ids], **settings, **weights)
    wanted = value_and_gradients(expected, differentiated(inputs))
    torch.testing.assert_close(value_and_gradients(actual, differentiated(inputs)), wanted)


def test_transport_defaults_are_those_of_otters_script():
    inputs = batch(9)
    otter = {"regularisation": 0.15, "iterations": 5, "diagonal": False, "image_image": 1.0, "text_text": 1.0}
    expected = plain_transport_distillation(*inputs, **otter)
    torch.testing.assert_close(transport_distillation(*inputs), expected)


def test_transport_without_iterations_is_self_distillation():
    inputs = batch(7)
    settings = {"image_image": 0.4, "text_text": 0.2, "diagonal": False}
    actual = transport_distillation(*inputs, iterations=0, regularisation=0.25, **settings)
    torch.testing.assert_close(actual, self_distillation(*inputs, 4.0, **settings))


def test_transport_targets_favour_similar_pairs():
    """A student that agrees with the teacher costs less than one that sees everything reversed."""
    _, _, image, text, _ = batch(12)
    scale = torch.tensor(10.0, dtype=torch.float64)
    settings = {"diagonal": True, "image_image": 0.0, "text_text": 0.0, "regularisation": 0.1}
    agreeing = transport_distillation(image, text, image, text, scale, **settings)
    reversed_ = transport_distillation(image, -text, image, text, scale, **settings)
    assert float(agreeing) < 0.5
    assert float(reversed_) > 3.0


def test_transport_columns_carry_equal_mass_after_many_iterations():
    """Pair 0's text is everyone's favourite; the plan has to spread the images over all texts."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    logits[:, 0] += 5.0
    layout = soft_targets.RankRows(group=None, rank=0, counts=(6,))
    potentials = soft_targets.sinkhorn_column_potentials(
        lambda rows: logits[rows].clone(), logits, layout, iterations=200, over_ranks=True
    )
    plan = (logits + potentials).softmax(1)
    torch.testing.assert_close(plan.sum(0), torch.ones(6, dtype=torch.float64))
    assert float(logits.softmax(1)[:, 0].sum()) > 3.0


def test_a_small_regularisation_does_not_overflow():
    inputs = [tensor.detach() for tensor in batch(10, dtype=torch.float32)]
    student = [inputs[0].requires_grad_(), inputs[1].requires_grad_()]
    loss = transport_distillation(*student, *inputs[2:], regularisation=1e-3)
    value, *gradients = value_and_gradients(loss, student)
    assert all(bool(tensor.isfinite().all()) for tensor in (value, *gradients))


@pytest.mark.usefixtures("chunking")
@pytest.mark.parametrize("diagonal", [True, False])
def test_gradients_agree_with_finite_differences(diagonal):
    image, text, teacher_image, teacher_text, scale = batch(6)
    ids = torch.tensor([0, 1, 2, 1, 3, 4])

    def both(image, text, scale):
        arguments = (image, text, teacher_image, teacher_text, scale)
        one = self_distillation(*arguments, 5.0, diagonal=diagonal, caption_ids=ids)
        return one + 2 * transport_distillation(*arguments, diagonal=diagonal, caption_ids=ids)

    assert torch.autograd.gradcheck(both, (image, text, scale))


@pytest.mark.parametrize("diagonal", [True, False])
def test_order_and_modality_change_nothing(diagonal):
    image, text, teacher_image, teacher_text, scale = batch(8)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    plain = (image, text, teacher_image, teacher_text, scale)
    permuted = (image[order], text[order], teacher_image[order], teacher_text[order], scale)
    swapped = (text, image, teacher_text, teacher_image, scale)
    for loss in (
        lambda *a: self_distillation(*a, 6.0, diagonal=diagonal),
        lambda *a: transport_distillation(*a, diagonal=diagonal),
    ):
        torch.testing.assert_close([loss(*permuted), loss(*swapped)], [loss(*plain)] * 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("scale", [100.0, 1000.0])
def test_low_precision_and_large_scales_stay_finite(dtype, scale):
    image, text, teacher_image, teacher_text, _ = (tensor.detach().to(dtype) for tensor in batch(16))
    student = [image.requires_grad_(), text.requires_grad_(), torch.tensor(scale, requires_grad=True)]
    for loss in (
        self_distillation(*student[:2], teacher_image, teacher_text, student[2], scale),
        transport_distillation(*student[:2], teacher_image, teacher_text, student[2]),
    ):
        value, *gradients = value_and_gradients(loss, student)
        assert value.dtype == torch.float32
        assert [gradient.dtype for gradient in gradients] == [tensor.dtype for tensor in student]
        assert all(bool(tensor.isfinite().all()) for tensor in (value, *gradients))


def test_rows_without_targets_cost_nothing():
    for n, ids in ((1, None), (4, torch.zeros(4, dtype=torch.int64))):
        inputs = batch(n)
        for loss in (
            self_distillation(*inputs, 10.0, diagonal=False, caption_ids=ids),
            transport_distillation(*inputs, caption_ids=ids),
            self_distillation(*inputs, 10.0, caption_ids=ids),
        ):
            value, *gradients = value_and_gradients(loss, differentiated(inputs))
            assert float(value) == 0.0
            assert all(bool((gradient == 0).all()) for gradient in gradients)


def test_a_frozen_text_tower_changes_no_other_gradient():
    image, text, teacher_image, teacher_text, scale = batch(7)
    expected = torch.autograd.grad(
        self_distillation(image, text, teacher_image, teacher_text, scale, 5.0), [image, scale]
    )
    frozen = self_distillation(image, text.detach(), teacher_image, teacher_text, scale, 5.0)
    torch.testing.assert_close(torch.autograd.grad(frozen, [image, scale]), expected)


LOSSES = {"softmax": lambda *a, **kw: self_distillation(*a, 6.0, **kw), "transport": transport_distillation}


class ProductsMade(TorchDispatchMode):
    """Counts the matrix products."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in ("mm", "addmm", "addmm_")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_without_a_backward_pass_to_come_no_gradient_is_computed(loss):
    inputs = batch(6)
    with ProductsMade() as training:
        expected = loss(*inputs).detach()
    with torch.no_grad(), ProductsMade() as evaluating:
        value = loss(*inputs)
    assert torch.equal(value, expected)
    # Each direction: the student's scores and the teacher's; in training a product for each side's gradient as well.
    assert (evaluating.count, training.count) == (4, 8)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_second_derivatives_are_refused_not_wrong(loss):
    inputs = batch(5)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        torch.autograd.grad(loss(*inputs), inputs[0], create_graph=True)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_bf16_products_are_those_of_the_rounded_embeddings(loss):
    inputs = [tensor.detach() for tensor in batch(40, width=96, teacher_width=64, dtype=torch.float32)]
    exact = [tensor.bfloat16().double() for tensor in inputs[:4]] + [inputs[4].double()]
    given = [inputs, exact]
    for tensors in given:
        for place in (0, 1, 4):
            tensors[place].requires_grad_()
    before = torch.get_float32_matmul_precision()
    actual = value_and_gradients(loss(*inputs, bf16_products=True), differentiated(inputs))
    assert torch.get_float32_matmul_precision() == before
    expected = value_and_gradients(loss(*exact), differentiated(exact))
    unrounded = loss(*(tensor.detach().double() for tensor in inputs))
    assert abs(float(expected[0] - unrounded)) > 1e-5 * float(unrounded)
    torch.testing.assert_close(expected[0], unrounded, rtol=1e-3, atol=0)
    # The weighted terms are made of rounded features in float32, which the processor may round again.
    torch.testing.assert_close(actual[0].double(), expected[0], rtol=1e-4, atol=0)
    for got, wanted in zip(actual[1:], expected[1:], strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-2, atol=4e-3 * float(wanted.abs().max()))


def test_settings_out_of_range_are_named():
    inputs = batch(4)
    with pytest.raises(ConfigError, match="teacher_scale is -2"):
        self_distillation(*inputs, -2.0)
    for loss in LOSSES.values():
        with pytest.raises(ConfigError, match="scale is -7"):
            loss(*inputs[:4], -inputs[4])
    with pytest.raises(ConfigError, match="regularisation is 0"):
        transport_distillation(*inputs, regularisation=0.0)
    with pytest.raises(ConfigError, match="iterations is -1"):
        transport_distillation(*inputs, iterations=-1)
    with pytest.raises(ConfigError, match="teacher_scale has shape"):
        self_distillation(*inputs, torch.ones(2))
    with pytest.raises(DataError, match="teacher has 3 pairs and the student 4"):
        self_distillation(*inputs[:2], inputs[2][:3], inputs[3][:3], inputs[4], 5.0)
    with pytest.raises(DataError, match="teacher image and text"):
        self_distillation(*inputs[:2], inputs[2], inputs[3][:, :2], inputs[4], 5.0)
