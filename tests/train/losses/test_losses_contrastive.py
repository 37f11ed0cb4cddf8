"""InfoNCE and HN-NCE against a plain float64 version, by-hand values, and the mistakes of public implementations."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from stillroom.errors import ConfigError, DataError
from stillroom.train.losses import blocks, contrastive, hard_negative_nce, info_nce
from stillroom.train.losses.contrastive import pair_terms
from stillroom.train.losses.inputs import reduced_products

# exp of the 3 x 3 scores that the cases by hand use; asymmetric, so that rows and columns differ.
HAND = torch.tensor([[4.0, 2.0, 1.0], [1.0, 4.0, 2.0], [1.0, 2.0, 4.0]], dtype=torch.float64)


def plain(image, text, scale, *, alpha=1.0, beta=0.0, caption_ids=None):
    """The definition, pair by pair in float64; weights in the log domain so that scale 1,000 can be compared too."""
    scores = scale * image @ text.T
    ids = torch.arange(len(image)) if caption_ids is None else caption_ids
    total = scores.sum() * 0.0
    for direction in (scores, scores.T):
        for i in range(len(image)):
            negatives = direction[i][ids != ids[i]]
            if len(negatives) == 0:
                continue
            log_weights = math.log(len(negatives)) + (beta * negatives).log_softmax(0)
            terms = [log_weights + negatives]
            if alpha:
                terms.append(direction[i, i][None] + math.log(alpha))
            total = total + torch.cat(terms).logsumexp(0) - direction[i, i]
    return total / (2 * len(image))


def embeddings(n, width=8, *, scale=10.0, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(n, width, generator=generator, dtype=torch.float64)
    text = image + torch.randn(n, width, generator=generator, dtype=torch.float64)
    pair = [F.normalize(image, dim=1), F.normalize(text, dim=1), torch.tensor(scale, dtype=torch.float64)]
    return [tensor.to(dtype).requires_grad_() for tensor in pair]


def scores_as_embeddings(scores):
    """Embeddings whose products are the given scores."""
    return scores, torch.eye(len(scores), dtype=scores.dtype), torch.tensor(1.0, dtype=scores.dtype)


def value_and_gradients(loss, inputs):
    return [loss.detach(), *torch.autograd.grad(loss, inputs)]


@pytest.fixture(params=["one tile", "small tiles", "kept tiles", "shifted tiles", "wide range"])
def tiling(request, monkeypatch):
    """Run a test on one tile, on many ragged ones, some kept, and with ranges that need a shift or forbid one."""
    if request.param != "one tile":
        monkeypatch.setattr(blocks, "_CPU_TILE", (4, 3))
        monkeypatch.setattr(blocks, "_KEPT_SCORES", 40 if request.param == "kept tiles" else 0)
    if request.param == "shifted tiles":
        monkeypatch.setattr(blocks, "_SUM_MARGIN", math.log(torch.finfo(torch.float64).max) - 12.0)
    if request.param == "wide range":
        monkeypatch.setattr(blocks, "_SUM_MARGIN", 1e4)


IDS = {
    "distinct": None,
    "some equal": torch.tensor([0, 1, 2, 0, 3, 4, 4, 0, 5, 6, 7]),
    "one in the minority": torch.tensor([0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    "all equal": torch.zeros(11, dtype=torch.int64),
}


@pytest.mark.usefixtures("tiling")
@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (1.0, 0.25), (0.0, 0.25), (0.5, 0.5), (0.0, 0.0), (0.9, 2.0)])
def test_hard_negative_nce_follows_its_definition(alpha, beta, ids):
    inputs = embeddings(11)
    settings = {"alpha": alpha, "beta": beta, "caption_ids": IDS[ids]}
    expected = value_and_gradients(plain(*inputs, **settings), inputs)
    torch.testing.assert_close(value_and_gradients(hard_negative_nce(*inputs, **settings), inputs), expected)


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_float32_is_as_good_as_the_definition(scale):
    inputs = embeddings(40, scale=scale)
    single = [tensor.detach().float().requires_grad_() for tensor in inputs]
    expected = value_and_gradients(plain(*inputs, beta=0.25), inputs)
    actual = value_and_gradients(hard_negative_nce(*single), single)
    for got, wanted in zip(actual, expected, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("spread", [0.2, 0.5, 0.9])
def test_float32_with_high_cosines_at_scale_100(spread):
    """Cosines from 1 - 2 * spread up: shifted where they span little, each row by its own maximum where they do not."""
    image, text, _ = embeddings(30)
    common = math.sqrt(1 - spread) * torch.ones(30, 1, dtype=torch.float64)
    raised = [torch.cat([math.sqrt(spread) * rows.detach(), common], 1) for rows in (image, text)]
    inputs = [tensor.requires_grad_() for tensor in (*raised, torch.tensor(100.0, dtype=torch.float64))]
    single = [tensor.detach().float().requires_grad_() for tensor in inputs]
    expected = value_and_gradients(plain(*inputs, beta=0.25), inputs)
    for got, wanted in zip(value_and_gradients(hard_negative_nce(*single), single), expected, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=2e-5 * float(wanted.abs().max()))


@pytest.mark.usefixtures("tiling")
@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_gradients_agree_with_finite_differences(beta):
    inputs = embeddings(7, width=3, scale=3.0)
    ids = torch.tensor([0, 1, 2, 3, 1, 4, 5])
    assert torch.autograd.gradcheck(lambda *a: hard_negative_nce(*a, alpha=0.7, beta=beta, caption_ids=ids), inputs)


def test_two_pairs_by_hand():
    scores = torch.tensor([[3.0, 1.0], [2.0, 5.0]], dtype=torch.float64).log()
    # Rows: 3 of 3 + 1, 5 of 2 + 5; columns: 3 of 3 + 2, 5 of 1 + 5. One negative each, so beta cannot matter.
    expected = -math.log(3 / 4 * 5 / 7 * 3 / 5 * 5 / 6) / 4
    assert float(info_nce(*scores_as_embeddings(scores))) == pytest.approx(expected, abs=1e-12)
    assert float(hard_negative_nce(*scores_as_embeddings(scores), beta=3.0)) == pytest.approx(expected, abs=1e-12)
    decoupled = -math.log(3 / 1 * 5 / 2 * 3 / 2 * 5 / 1) / 4
    assert float(hard_negative_nce(*scores_as_embeddings(scores), alpha=0.0)) == pytest.approx(decoupled, abs=1e-12)


def test_three_pairs_by_hand():
    inputs = scores_as_embeddings(HAND.log())
    # beta = 1: negatives a and b weigh 2 a / (a + b) and 2 b / (a + b); rows hold 2, 1 each, columns 1, 1; 2, 2; 1, 2.
    rows = [math.log(1 + 10 / 3 / 4)] * 3
    columns = [math.log(1 + 2 / 4), math.log(1 + 4 / 4), math.log(1 + 10 / 3 / 4)]
    assert float(hard_negative_nce(*inputs, beta=1.0)) == pytest.approx(sum(rows + columns) / 6, abs=1e-12)
    rows = [math.log(1 + 3 / 4)] * 3
    columns = [math.log(1 + 2 / 4), math.log(1 + 4 / 4), math.log(1 + 3 / 4)]
    assert float(info_nce(*inputs)) == pytest.approx(sum(rows + columns) / 6, abs=1e-12)
    # Captions 0 and 2 equal: rows keep the negatives 2; 1, 2; 2, columns 1; 2, 2; 2.
    terms = [2, 3, 2, 1, 4, 2]
    expected = sum(math.log(1 + term / 4) for term in terms) / 6
    assert float(info_nce(*inputs, caption_ids=torch.tensor([5, 9, 5]))) == pytest.approx(expected, abs=1e-12)


def wrong_hard_negative_nce(exponentials, beta, mistake):
    """HN-NCE with the mistakes that public implementations share, for alpha = 1."""
    n = len(exponentials)
    off_diagonal = 1.0 - torch.eye(n, dtype=exponentials.dtype)
    total = 0.0
    for direction, matrix in enumerate((exponentials, exponentials.T)):
        numerator = matrix**beta * off_diagonal
        normaliser = numerator.sum(1, keepdim=True)
        if mistake == "normaliser of another row" and direction == 0:
            normaliser = normaliser.T
        elif mistake == "columns normalised as rows" and direction == 1:
            normaliser = (exponentials**beta * off_diagonal).sum(1, keepdim=True)
        elif mistake == "beta left out of the normaliser":
            normaliser = (matrix * off_diagonal).sum(1, keepdim=True)
        elif mistake == "positive counted in the normaliser":
            normaliser = (matrix**beta).sum(1, keepdim=True)
        elif mistake == "positive weighted as a negative":
            numerator = matrix**beta
        weights = (n - 1) * numerator / normaliser
        total += (1 + (weights * matrix).sum(1) / matrix.diagonal()).log().sum()
    return float(total) / (2 * n)


@pytest.mark.parametrize(
    "mistake",
    [
        "normaliser of another row",
        "columns normalised as rows",
        "beta left out of the normaliser",
        "positive counted in the normaliser",
        "positive weighted as a negative",
    ],
)
def test_widely_copied_mistakes_are_not_made(mistake):
    exponentials = torch.tensor([[4.0, 2.0, 1.0], [1.0, 6.0, 5.0], [3.0, 2.0, 4.0]], dtype=torch.float64)
    actual = float(hard_negative_nce(*scores_as_embeddings(exponentials.log()), beta=2.0))
    assert actual == pytest.approx(wrong_hard_negative_nce(exponentials, 2.0, None), abs=1e-12)
    assert abs(actual - wrong_hard_negative_nce(exponentials, 2.0, mistake)) > 0.01


@pytest.mark.parametrize("scale", [100.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_large_cosines_do_not_overflow(scale, dtype):
    image, text, _ = embeddings(24, width=4)
    inputs = [tensor.detach().to(dtype).requires_grad_() for tensor in (image, image + 0.05 * text)]
    temperature = torch.tensor(scale, requires_grad=True)
    exact = [tensor.detach().double().requires_grad_() for tensor in (*inputs, temperature)]
    actual = value_and_gradients(hard_negative_nce(*inputs, temperature), [*inputs, temperature])
    expected = value_and_gradients(plain(*exact, beta=0.25), exact)
    assert actual[0].dtype == torch.float32
    precision = {torch.float32: 1e-3, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
    for got, wanted in zip(actual, expected, strict=True):
        assert bool(got.isfinite().all())
        # Gradients come back in the embeddings' type, of which 6e-8 is float16's smallest number.
        tolerance = max(precision * float(wanted.abs().max()), 6e-8)
        torch.testing.assert_close(got.double(), wanted, rtol=precision, atol=tolerance)


def test_alpha_one_beta_zero_is_info_nce_is_clip_loss():
    open_clip_loss = pytest.importorskip("open_clip.loss")
    inputs = embeddings(30, dtype=torch.float32)
    ours = value_and_gradients(info_nce(*inputs), inputs)
    hard = value_and_gradients(hard_negative_nce(*inputs, alpha=1.0, beta=0.0), inputs)
    theirs = value_and_gradients(open_clip_loss.ClipLoss()(*inputs), inputs)
    torch.testing.assert_close(hard, ours, rtol=0, atol=0)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.1, 1.0])
def test_label_smoothing_moves_mass_to_the_negatives(smoothing):
    inputs = embeddings(9)
    scores = inputs[2] * inputs[0] @ inputs[1].T
    target = torch.full((9, 9), smoothing / 8, dtype=torch.float64).fill_diagonal_(1 - smoothing)
    expected = (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2
    actual = info_nce(*inputs, label_smoothing=smoothing)
    torch.testing.assert_close(value_and_gradients(actual, inputs), value_and_gradients(expected, inputs))


def test_label_smoothing_respects_equal_captions():
    inputs = embeddings(5)
    ids = torch.tensor([0, 1, 0, 2, 3])
    scores = inputs[2] * inputs[0] @ inputs[1].T
    negative = ids[:, None] != ids[None, :]
    target = 0.1 * negative / negative.sum(1, keepdim=True) + 0.9 * torch.eye(5, dtype=torch.float64)
    scores_kept = scores.masked_fill(~negative & ~torch.eye(5, dtype=torch.bool), -1e9)
    expected = (F.cross_entropy(scores_kept, target) + F.cross_entropy(scores_kept.T, target)) / 2
    actual = info_nce(*inputs, label_smoothing=0.1, caption_ids=ids)
    torch.testing.assert_close(value_and_gradients(actual, inputs), value_and_gradients(expected, inputs))


@pytest.mark.usefixtures("tiling")
def test_weights_of_a_row_sum_to_the_number_of_its_negatives():
    image, text, scale = (tensor.detach() for tensor in embeddings(11))
    ids, beta = IDS["some equal"], 0.5
    matrix = blocks.ScoreMatrix(image=image, text=text, scale=scale, image_ids=ids, text_ids=ids, offset=0)
    sums = blocks.negative_log_sums(matrix, (1 + beta, beta), keep=False)
    scores = scale * image @ text.T
    negative = ids[:, None] != ids[None, :]
    for log_sums, z in ((sums.rows, scores), (sums.columns, scores.T)):
        weights = negative.sum(1, keepdim=True) * (beta * z - log_sums[1][:, None]).exp() * negative
        torch.testing.assert_close(weights.sum(1), negative.sum(1).double())
        hard_sum = (pair_terms(torch.zeros(11), log_sums, negative.sum(1).double(), 0.0)[0]).exp()
        torch.testing.assert_close((weights * z.exp()).sum(1), hard_sum)


def test_equal_negatives_weigh_one_each():
    scores = torch.full((6, 6), 0.3, dtype=torch.float64).fill_diagonal_(1.7)
    expected = float(info_nce(*scores_as_embeddings(scores)))
    assert float(hard_negative_nce(*scores_as_embeddings(scores), beta=2.0)) == pytest.approx(expected, abs=1e-12)


def test_order_and_modality_and_a_constant_change_nothing():
    image, text, scale = embeddings(10)
    ids = torch.tensor([0, 1, 2, 3, 1, 4, 5, 6, 7, 0])
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    loss = hard_negative_nce(image, text, scale, caption_ids=ids)
    permuted = hard_negative_nce(image[order], text[order], scale, caption_ids=ids[order])
    swapped = hard_negative_nce(text, image, scale, caption_ids=ids)
    one = torch.ones(10, 1, dtype=torch.float64)
    shifted = hard_negative_nce(torch.cat([image, one], 1), torch.cat([text, 0.4 * one], 1), scale, caption_ids=ids)
    torch.testing.assert_close([permuted, swapped, shifted], [loss] * 3)
    assert not torch.isclose(hard_negative_nce(image[order], text, scale, caption_ids=ids), loss)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("beta", [0.0, 0.25])
def test_a_pair_without_negatives_costs_nothing(alpha, beta):
    for n, ids in ((0, None), (1, None), (1, torch.tensor([3])), (4, torch.full((4,), 7))):
        inputs = embeddings(n, dtype=torch.float32)
        loss = hard_negative_nce(*inputs, alpha=alpha, beta=beta, caption_ids=ids)
        value, *gradients = value_and_gradients(loss, inputs)
        assert float(value) == 0.0
        assert all(bool((gradient == 0).all()) for gradient in gradients)


def test_equal_captions_in_part_of_the_batch_leave_the_rest_alone():
    image, text, scale = embeddings(4)
    # Pair 3 has no negatives of its own kind left, pairs 0 to 2 have pair 3 alone.
    ids = torch.tensor([1, 1, 1, 2], dtype=torch.int32)
    scores = scale * image @ text.T
    expected = 0.0
    for z in (scores, scores.T):
        expected += sum(F.softplus(z[i, 3] - z[i, i]) for i in range(3)) + (z[3].exp().sum().log() - z[3, 3])
    torch.testing.assert_close(info_nce(image, text, scale, caption_ids=ids), expected / 8)


@pytest.mark.parametrize("frozen", [{0}, {1}, {2}, {0, 1}, {0, 2}, {1, 2}])
def test_frozen_inputs_get_no_gradient_and_change_no_other(frozen):
    inputs = embeddings(9)
    _, *expected = value_and_gradients(hard_negative_nce(*inputs), inputs)
    given = [t.detach() if i in frozen else t.detach().requires_grad_() for i, t in enumerate(inputs)]
    hard_negative_nce(*given).backward()
    for i, (tensor, gradient) in enumerate(zip(given, expected, strict=True)):
        assert (tensor.grad is None) == (i in frozen)
        if i not in frozen:
            torch.testing.assert_close(tensor.grad, gradient)


@pytest.mark.usefixtures("tiling")
def test_backward_can_run_twice_and_scales_with_its_input():
    inputs = embeddings(9)
    loss = hard_negative_nce(*inputs)
    first = torch.autograd.grad(loss, inputs, retain_graph=True)
    second = torch.autograd.grad(-3.0 * loss, inputs)
    torch.testing.assert_close(second, tuple(-3.0 * gradient for gradient in first))


def test_autocast_does_not_lower_the_precision():
    inputs = embeddings(32, dtype=torch.float32)
    expected = value_and_gradients(info_nce(*inputs, label_smoothing=0.1), inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = value_and_gradients(info_nce(*inputs, label_smoothing=0.1), inputs)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_second_derivatives_are_refused_not_wrong(smoothing):
    image, text, scale = embeddings(5)
    weight = torch.eye(8, dtype=torch.float64, requires_grad=True)
    loss = info_nce(image @ weight, text, scale, label_smoothing=smoothing)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        torch.autograd.grad(loss, image, create_graph=True)


def test_nothing_is_kept_for_a_backward_pass_that_cannot_come(monkeypatch):
    kept = []

    def spy(*args, keep):
        kept.append(keep)
        return blocks.negative_log_sums(*args, keep=keep)

    monkeypatch.setattr(contrastive, "negative_log_sums", spy)
    inputs = embeddings(5)
    expected = hard_negative_nce(*inputs).detach()
    with torch.no_grad():
        assert torch.equal(hard_negative_nce(*inputs), expected)
    hard_negative_nce(*(tensor.detach() for tensor in inputs))
    assert kept == [True, False, False]


def rounded(inputs):
    """The inputs with bf16's values, in float64."""
    image, text, scale = (tensor.detach() for tensor in inputs)
    return [one.double().requires_grad_() for one in (image.bfloat16(), text.bfloat16(), scale)]


@pytest.mark.parametrize("settings", [{"alpha": 0.9, "beta": 0.25}, {"beta": 0.0}])
@pytest.mark.parametrize("scale", [14.3, 100.0])
def test_bf16_products_are_those_of_the_rounded_embeddings(scale, settings):
    inputs = embeddings(64, width=96, scale=scale, dtype=torch.float32)
    exact = rounded(inputs)
    expected = value_and_gradients(plain(*exact, **settings), exact)
    actual = value_and_gradients(hard_negative_nce(*inputs, bf16_products=True, **settings), inputs)
    assert [tensor.dtype for tensor in actual] == [torch.float32] * 4
    # Sums are float32's; scores' gradients may be rounded to bf16's 8 binary digits by the processor.
    torch.testing.assert_close(actual[0].double(), expected[0], rtol=2e-5, atol=1e-6)
    for got, wanted in zip(actual[1:], expected[1:], strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-2, atol=4e-3 * float(wanted.abs().max()))


def test_bf16_products_with_label_smoothing_and_equal_captions():
    inputs = embeddings(11, dtype=torch.float32)
    settings = {"label_smoothing": 0.1, "caption_ids": IDS["some equal"]}
    actual = info_nce(*inputs, bf16_products=True, **settings)
    torch.testing.assert_close(actual.double(), info_nce(*rounded(inputs), **settings), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(("scale", "spread"), [(14.3, 1.0), (100.0, 3.0)])
def test_bf16_products_cost_little_accuracy(scale, spread):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(512, 256, generator=generator)
    text = image + spread * torch.randn(512, 256, generator=generator)
    inputs = [F.normalize(image, dim=1), F.normalize(text, dim=1), torch.tensor(scale)]
    exact = [tensor.double().requires_grad_() for tensor in inputs]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    expected = value_and_gradients(hard_negative_nce(*exact), exact)
    single = value_and_gradients(hard_negative_nce(*inputs), inputs)
    actual = value_and_gradients(hard_negative_nce(*inputs, bf16_products=True), inputs)

    def errors(found):
        # The gradient of log scale is measured by the loss: it can be a small rest of what cancels.
        norms = [expected[0], expected[1].norm(), expected[2].norm(), expected[0] / scale]
        return [
            float((one.double() - wanted).norm() / norm)
            for one, wanted, norm in zip(found, expected, norms, strict=True)
        ]

    assert max(errors(single)) < 1e-5
    value, image_error, text_error, scale_error = errors(actual)
    assert 1e-7 < value < 2e-3
    assert 1e-4 < image_error < 0.01
    assert 1e-4 < text_error < 0.01
    assert scale_error < 2e-3


def test_float64_embeddings_are_never_rounded():
    inputs = embeddings(9)
    expected = value_and_gradients(hard_negative_nce(*inputs), inputs)
    actual = value_and_gradients(hard_negative_nce(*inputs, bf16_products=True), inputs)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("before", ["highest", "high"])
def test_bf16_products_are_allowed_inside_the_loss_alone(monkeypatch, before):
    seen = []
    scores = blocks.ScoreMatrix.scores

    def spy(*args):
        seen.append(torch.get_float32_matmul_precision())
        return scores(*args)

    monkeypatch.setattr(blocks.ScoreMatrix, "scores", spy)
    at_first = torch.get_float32_matmul_precision()
    inputs = embeddings(5, dtype=torch.float32)
    try:
        torch.set_float32_matmul_precision(before)
        loss = hard_negative_nce(*inputs, bf16_products=True)
        assert torch.get_float32_matmul_precision() == before
        loss.backward()
        assert torch.get_float32_matmul_precision() == before
        hard_negative_nce(*inputs).backward()
        with pytest.raises(DataError), reduced_products(bf16=True):
            raise DataError
        assert torch.get_float32_matmul_precision() == before
    finally:
        torch.set_float32_matmul_precision(at_first)
    assert seen == ["medium", "medium", before, before]


def test_bf16_products_leave_the_switch_of_one_back_end_as_it_was():
    switch = torch.backends.cuda.matmul
    if not hasattr(switch, "fp32_precision"):
        pytest.skip("this PyTorch has one switch for all back ends")
    before = switch.fp32_precision
    inputs = embeddings(5, dtype=torch.float32)
    try:
        switch.fp32_precision = "tf32"
        hard_negative_nce(*inputs, bf16_products=True).backward()
        assert switch.fp32_precision == "tf32"
    finally:
        switch.fp32_precision = before
    assert torch.get_float32_matmul_precision() == "highest"


class LargestTensor(TorchDispatchMode):
    """Records the most elements of any tensor that an operation returns."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [result] if isinstance(result, torch.Tensor) else []
        self.elements = max([self.elements, *(tensor.numel() for tensor in tensors)])
        return result


def test_no_n_by_n_matrix_is_made(monkeypatch):
    monkeypatch.setattr(blocks, "_CPU_TILE", (256, 512))
    n = 2048
    inputs = embeddings(n, width=4, dtype=torch.float32)
    with LargestTensor() as largest:
        hard_negative_nce(*inputs, caption_ids=torch.arange(n) // 2).backward()
    assert n * 4 < largest.elements <= n * n / 16


def test_a_nan_is_not_hidden():
    image, text, scale = embeddings(6)
    image = image.detach().clone()
    image[2, 1] = math.nan
    assert math.isnan(float(hard_negative_nce(image, text.detach(), scale.detach())))


@pytest.mark.parametrize("settings", [{"alpha": -0.1}, {"alpha": 1.5}, {"beta": -1.0}, {"beta": math.inf}])
def test_settings_out_of_range_are_named(settings):
    name, value = next(iter(settings.items()))
    with pytest.raises(ConfigError, match=f"{name} is {value}"):
        hard_negative_nce(*embeddings(3), **settings)


def test_tensors_that_do_not_fit_are_named():
    image, text, scale = embeddings(3)
    with pytest.raises(DataError, match=r"\(3, 8\) and \(2, 8\)"):
        info_nce(image, text[:2], scale)
    with pytest.raises(DataError, match="int64"):
        info_nce(image.long(), text.long(), scale)
    with pytest.raises(DataError, match=r"one integer for each of the 3 pairs"):
        info_nce(image, text, scale, caption_ids=torch.arange(2))
    with pytest.raises(DataError, match="float32"):
        info_nce(image, text, scale, caption_ids=torch.zeros(3))
    with pytest.raises(ConfigError, match="scale has shape"):
        info_nce(image, text, torch.ones(3))
    for negative in (torch.tensor(-5.0), -5.0):
        with pytest.raises(ConfigError, match="scale is -5"):
            info_nce(image, text, negative)
        with pytest.raises(ConfigError, match="scale is -5"):
            hard_negative_nce(image, text, negative)
    with pytest.raises(ConfigError, match="label_smoothing is 2"):
        info_nce(image, text, scale, label_smoothing=2.0)
