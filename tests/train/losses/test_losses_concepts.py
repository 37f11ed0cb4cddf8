"""Sparse soft-label cross-entropy against PyTorch's dense one."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from stillroom.errors import DataError
from stillroom.train.losses import concept_distillation, concepts


def labels(n, classes, k, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.randperm(classes, generator=generator)[:k] for _ in range(n)])
    return ids, torch.rand(n, k, generator=generator, dtype=torch.float64).softmax(1)


def student_logits(n, classes, *, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return (4 * torch.randn(n, classes, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()


def dense(logits, ids, probs):
    target = torch.zeros_like(logits).scatter_add(1, ids.to(torch.int64), probs.to(logits.dtype))
    return -(target * logits.log_softmax(1)).sum(1).mean()


def value_and_gradient(loss, logits):
    return loss.detach(), *torch.autograd.grad(loss, logits)


@pytest.fixture(params=["one chunk", "small chunks"])
def chunking(request, monkeypatch):
    if request.param == "small chunks":
        monkeypatch.setattr(concepts, "_CHUNK_ELEMENTS", 50)


@pytest.mark.usefixtures("chunking")
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint16, torch.uint32, torch.uint64])
def test_equal_to_the_dense_form_for_every_integer_type(dtype):
    logits, (ids, probs) = student_logits(13, 20), labels(13, 20, 4)
    expected = value_and_gradient(dense(logits, ids, probs), logits)
    torch.testing.assert_close(value_and_gradient(concept_distillation(logits, ids.to(dtype), probs), logits), expected)
    target = torch.zeros_like(logits).scatter(1, ids, probs)
    torch.testing.assert_close(expected[0], F.cross_entropy(logits, target).detach())


def test_by_hand():
    logits = torch.tensor([[1.0, 2.0, 5.0], [1.0, 1.0, 2.0]], dtype=torch.float64).log().requires_grad_()
    ids, probs = torch.tensor([[2, 0], [1, 2]]), torch.tensor([[0.75, 0.25], [1.0, 0.0]], dtype=torch.float64)
    value, gradient = value_and_gradient(concept_distillation(logits, ids, probs), logits)
    assert float(value) == pytest.approx((0.75 * math.log(8 / 5) + 0.25 * math.log(8) + math.log(4)) / 2, abs=1e-12)
    by_hand = [[1 / 8 - 1 / 4, 2 / 8, 5 / 8 - 3 / 4], [1 / 4, 1 / 4 - 1, 2 / 4]]
    torch.testing.assert_close(gradient, torch.tensor(by_hand, dtype=torch.float64) / 2)


def test_gradient_agrees_with_finite_differences():
    logits, (ids, probs) = student_logits(5, 7), labels(5, 7, 3)
    assert torch.autograd.gradcheck(lambda z: concept_distillation(z, ids, 0.9 * probs), logits)


def test_probabilities_are_used_as_they_are():
    logits, (ids, probs) = student_logits(6, 9), labels(6, 9, 3)
    halved = concept_distillation(logits, ids, 0.5 * probs)
    torch.testing.assert_close(halved, 0.5 * concept_distillation(logits, ids, probs))


@pytest.mark.parametrize("padding", [0, 1, 8, -1, 2**32 - 1])
def test_probability_zero_marks_padding_whatever_its_id(padding):
    logits, (ids, probs) = student_logits(6, 9), labels(6, 9, 3)
    padded_ids = torch.cat([ids, torch.full((6, 2), padding)], 1)
    padded_probs = torch.cat([probs, torch.zeros(6, 2)], 1)
    expected = value_and_gradient(concept_distillation(logits, ids, probs), logits)
    torch.testing.assert_close(
        value_and_gradient(concept_distillation(logits, padded_ids, padded_probs), logits), expected
    )


def test_padding_does_not_touch_an_impossible_class():
    logits = torch.tensor([[-math.inf, 0.0, 0.0]], requires_grad=True)
    loss = concept_distillation(logits, torch.tensor([[1, 0]]), torch.tensor([[1.0, 0.0]]))
    value, gradient = value_and_gradient(loss, logits)
    assert float(value) == pytest.approx(math.log(2))
    torch.testing.assert_close(gradient, torch.tensor([[0.0, -0.5, 0.5]]))


def test_an_id_given_twice_counts_twice():
    logits = student_logits(1, 5)
    twice = concept_distillation(logits, torch.tensor([[3, 3]]), torch.tensor([[0.4, 0.6]]))
    torch.testing.assert_close(twice, concept_distillation(logits, torch.tensor([[3]]), torch.tensor([[1.0]])))


def test_a_sample_of_padding_alone_costs_nothing_but_counts():
    logits, (ids, probs) = student_logits(4, 6), labels(4, 6, 2)
    probs[1:] = 0.0
    value, gradient = value_and_gradient(concept_distillation(logits, ids, probs), logits)
    torch.testing.assert_close(value, concept_distillation(logits[:1], ids[:1], probs[:1]).detach() / 4)
    assert bool((gradient[1:] == 0).all())
    assert float(concept_distillation(logits[:0].detach(), ids[:0], probs[:0])) == 0.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_logits_are_computed_in_float32(dtype):
    logits, (ids, probs) = student_logits(8, 50, dtype=dtype), labels(8, 50, 5)
    exact = logits.detach().double().requires_grad_()
    stored = probs.half()
    expected = value_and_gradient(dense(exact, ids, stored), exact)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = concept_distillation(1e4 * logits / 1e4, ids, stored)
    assert loss.dtype == torch.float32
    value, gradient = value_and_gradient(concept_distillation(logits, ids, stored), logits)
    assert gradient.dtype == dtype
    torch.testing.assert_close(value.double(), expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient.double(), expected[1], rtol=1e-2, atol=1e-3)


def test_second_derivatives_are_refused_not_wrong():
    logits, (ids, probs) = student_logits(5, 7), labels(5, 7, 3)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        torch.autograd.grad(concept_distillation(logits, ids, probs), logits, create_graph=True)


class TensorsMade(TorchDispatchMode):
    """Records the elements of every tensor that an operation returns."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {argument.untyped_storage().data_ptr() for argument in args if isinstance(argument, torch.Tensor)}
        if isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() not in given:
            self.sizes.append(result.numel())
        return result


def test_memory_beyond_the_gradient_is_a_tenth_of_the_dense_target():
    n, classes, k = 512, 10_000, 10
    logits, (ids, probs) = student_logits(n, classes, dtype=torch.float32), labels(n, classes, k)
    with TensorsMade() as made:
        concept_distillation(logits, ids.to(torch.uint32), probs.half()).backward()
    large = [size for size in made.sizes if size > n * classes / 10]
    assert large == [n * classes]


def test_what_does_not_fit_is_named():
    logits, (ids, probs) = student_logits(4, 6), labels(4, 6, 2)
    with pytest.raises(DataError, match="concept id 6 is not among the 6 classes"):
        concept_distillation(logits, ids.clone().fill_(6), probs)
    with pytest.raises(DataError, match="concept id -1 "):
        concept_distillation(logits, ids.clone().fill_(-1), probs)
    with pytest.raises(DataError, match=r"probs holds -0\.25"):
        concept_distillation(logits, ids, probs.clone().index_fill_(1, torch.tensor(1), -0.25))
    with pytest.raises(DataError, match=r"\(4, 6\), \(4, 2\) and \(4, 1\)"):
        concept_distillation(logits, ids, probs[:, :1])
    with pytest.raises(DataError, match=r"\(4, 6\), \(3, 2\)"):
        concept_distillation(logits, ids[:3], probs[:3])
    with pytest.raises(DataError, match="ids torch.float64"):
        concept_distillation(logits, probs, probs)
