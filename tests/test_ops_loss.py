"""Cross-entropy, and the head that computes it without materializing all logits, against torch's own."""

from contextlib import nullcontext

import pytest
import torch
from torch.nn.functional import cross_entropy as torch_cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from llamita import ops
from llamita.model import Llama, LMHead, ModelConfig, cross_entropy
from llamita.ops import chunked_loss, cpu, reference

REDUCTIONS = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
TIED = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


def drawn_targets(vocab_size: int, *shape: int, ignored: float = 0.3) -> torch.Tensor:
    targets = torch.randint(vocab_size, shape)
    return torch.where(torch.rand(shape) < ignored, -100, targets)


def expected_loss(logits: torch.Tensor, targets: torch.Tensor, reduction: str) -> torch.Tensor:
    loss = torch_cross_entropy(logits.float().flatten(0, -2), targets.flatten(), reduction=reduction)
    return loss.view_as(targets) if reduction == "none" else loss


# The function


@REDUCTIONS
@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cross_entropy_and_its_gradient_match_torch(reduction, scale, dtype):
    torch.manual_seed(0)
    logits = (scale * torch.randn(3, 7, 50)).to(dtype)
    targets, weights = drawn_targets(50, 3, 7), torch.rand(3, 7)
    mine, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss, expected = cross_entropy(mine, targets, reduction), expected_loss(theirs, targets, reduction)
    torch.testing.assert_close(loss, expected)
    assert loss.dtype == torch.float32
    (loss * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


@pytest.mark.parametrize("shift", [-1e4, 100.0, 1e4])
def test_shifting_all_logits_loses_no_precision(shift):
    """Against fp64, for the function and for the head: the maximum is subtracted before anything is rounded."""
    torch.manual_seed(0)
    exact = (shift + torch.randn(40, 30)).requires_grad_()
    targets = drawn_targets(30, 40)
    expected = torch_cross_entropy(exact.double(), targets, reduction="sum")
    expected.backward()
    mine, head = exact.detach().clone().requires_grad_(), LMHead(40, 30)
    with torch.no_grad():
        head.weight.copy_(mine.T)  # the hidden states are unit vectors, so these are the logits
    for loss, gradient in ((cross_entropy(mine, targets, "sum"), lambda: mine.grad),
                           (head(torch.eye(40), targets, "sum"), lambda: head.weight.grad.T)):  # fmt: skip
        torch.testing.assert_close(loss, expected.float(), rtol=1e-6, atol=0)
        loss.backward()
        torch.testing.assert_close(gradient(), exact.grad, rtol=1e-5, atol=1e-6)


@REDUCTIONS
def test_logits_of_minus_infinity_leave_the_loss_finite(reduction):
    logits = torch.randn(5, 9)
    logits[:, 4] = -torch.inf
    targets = torch.tensor([0, 1, -100, 3, 8])
    torch.testing.assert_close(cross_entropy(logits, targets, reduction), expected_loss(logits, targets, reduction))


def test_ignored_targets_get_no_loss_and_no_gradient():
    logits = torch.randn(4, 6, requires_grad=True)
    targets = torch.tensor([2, -100, 5, -100])
    nats = cross_entropy(logits, targets, "none")
    assert nats[1] == nats[3] == 0
    cross_entropy(logits, targets).backward()
    assert (logits.grad[[1, 3]] == 0).all()
    assert (logits.grad[[0, 2]] != 0).all()


def test_a_mean_over_no_target_is_nan_as_torchs_is():
    logits, targets = torch.randn(2, 5), torch.full((2,), -100)
    assert cross_entropy(logits, targets).isnan()
    assert torch_cross_entropy(logits, targets).isnan()
    assert cross_entropy(logits, targets, "sum") == 0


# The head


BACKENDS = pytest.mark.parametrize("backend", ["native", "plain"])


@BACKENDS
@REDUCTIONS
@pytest.mark.parametrize("tokens", [1, 511, 512, 513, 1100])
def test_the_head_equals_linear_and_torchs_cross_entropy(reduction, tokens, backend):
    torch.manual_seed(tokens)
    head = LMHead(12, 40)
    torch.nn.init.normal_(head.weight)
    hidden, targets = torch.randn(1, tokens, 12, requires_grad=True), drawn_targets(40, 1, tokens)
    targets[0, 0] = 1
    with ops.backend(backend):
        loss = head(hidden, targets, reduction)
    expected = expected_loss(hidden @ head.weight.T, targets, reduction)
    torch.testing.assert_close(loss, expected)
    weights = torch.rand(1, tokens) if reduction == "none" else torch.tensor(0.7)
    gradients = [torch.autograd.grad((nats * weights).sum(), [hidden, head.weight]) for nats in (loss, expected)]
    for mine, theirs in zip(*gradients, strict=True):
        assert (mine - theirs).norm() < 1e-5 * theirs.norm()


@BACKENDS
def test_the_head_never_materializes_the_logits_of_all_tokens(backend):
    """The largest tensor that the loss allocates is one chunk of logits, forward and backward."""
    chunk = {"native": chunked_loss, "plain": reference}[backend].CHUNK
    tokens, vocab_size = 4 * chunk, 300
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            made = func(*args, **(kwargs or {}))
            largest = max([largest, *(t.numel() for t in torch.utils._pytree.tree_leaves(made) if torch.is_tensor(t))])
            return made

    head, hidden = LMHead(4, vocab_size), torch.randn(1, tokens, 4, requires_grad=True)
    torch.nn.init.normal_(head.weight)
    with ops.backend(backend), Watch():
        head(hidden, torch.randint(vocab_size, (1, tokens))).backward()
    assert largest == chunk * vocab_size


KERNELS = {"chunked": chunked_loss.linear_cross_entropy, "fused": cpu.cross_entropy.linear_cross_entropy}


@pytest.mark.parametrize("name", KERNELS)
def test_without_gradients_the_head_computes_only_the_logits(name):
    """An evaluation that computes unused gradients takes three times as long."""
    kernel, dtype = KERNELS[name], torch.bfloat16 if name == "fused" else torch.float32
    hidden, head, targets = torch.randn(700, 16, dtype=dtype), LMHead(16, 40), drawn_targets(40, 700)
    torch.nn.init.normal_(head.weight)
    with torch.no_grad(), FlopCounterMode(display=False) as evaluating:
        nats = kernel(hidden, head.weight, targets)
    with FlopCounterMode(display=False) as learning:
        assert torch.equal(nats, kernel(hidden, head.weight, targets).detach())
    assert evaluating.get_total_flops() == 2 * 700 * 16 * 40
    assert learning.get_total_flops() == 3 * 2 * 700 * 16 * 40


def test_without_gradients_the_head_gives_the_same_loss():
    head, hidden, targets = LMHead(12, 40), torch.randn(2, 9, 12), drawn_targets(40, 2, 9)
    torch.nn.init.normal_(head.weight)
    with torch.no_grad():
        assert torch.equal(head(hidden, targets), head(hidden, targets))
        torch.testing.assert_close(head(hidden, targets), expected_loss(hidden @ head.weight.T, targets, "mean"))


# The model


def loss_and_gradients(model: Llama, loss: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_loss_matches_logits(
    model: Llama, targets: torch.Tensor, reduction: str, tolerance: float, context=None
) -> None:
    ids = torch.randint(model.config.vocab_size, targets.shape)
    with context or nullcontext():
        fused = model(ids, targets, reduction=reduction)
    loss, gradients = loss_and_gradients(model, fused.sum())
    with context or nullcontext():
        logits = model(ids)
    expected, their_gradients = loss_and_gradients(model, expected_loss(logits, targets, reduction).sum())
    assert abs(loss - expected) < tolerance * abs(expected)
    for name, theirs in their_gradients.items():
        assert (gradients[name] - theirs).norm() < tolerance * theirs.norm(), name


def model_with(tied: bool) -> Llama:
    torch.manual_seed(1)
    shape = {"vocab_size": 61, "hidden_size": 24, "num_layers": 2, "num_heads": 4, "max_seq_len": 300}
    model = Llama(ModelConfig(tie_embeddings=tied, **shape))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(0.5, 1.5) if parameter.dim() < 2 else parameter.normal_(0, parameter.shape[1] ** -0.5)
    return model


@TIED
@REDUCTIONS
def test_the_models_loss_is_the_loss_of_its_logits_in_value_and_every_gradient(tied, reduction):
    assert_loss_matches_logits(model_with(tied), drawn_targets(61, 3, 300), reduction, tolerance=2e-5)


@TIED
def test_under_bf16_autocast_they_agree_within_rounding(tied):
    context = torch.autocast("cpu", dtype=torch.bfloat16)
    assert_loss_matches_logits(model_with(tied), drawn_targets(61, 3, 300), "mean", 2e-2, context)


@TIED
def test_the_losses_of_micro_batches_sum_to_the_loss_of_the_batch(tied):
    """The sum over micro-batches, divided by all targets together, is the mean over the whole."""
    model = model_with(tied)
    ids, targets = torch.randint(61, (6, 20)), drawn_targets(61, 6, 20, ignored=0.6)
    whole, expected = loss_and_gradients(model, model(ids, targets))
    counted = (targets != -100).sum()
    parts = [model(i, t, reduction="sum") / counted for i, t in zip(ids.split(2), targets.split(2), strict=True)]
    loss, gradients = loss_and_gradients(model, sum(parts))
    torch.testing.assert_close(loss, whole)
    for name, theirs in expected.items():
        assert (gradients[name] - theirs).norm() < 1e-5 * theirs.norm(), name
