"""Rotary embeddings against the complex numbers of the paper (Su et al., 2021)."""

import pytest
import torch

from llamita.model import ModelConfig, RotaryEmbedding


def rope(head_dim: int, theta: float = 10000.0, max_seq_len: int = 300) -> RotaryEmbedding:
    config = ModelConfig(hidden_size=head_dim, num_heads=1, rope_theta=theta, max_seq_len=max_seq_len)
    return RotaryEmbedding(config)


def turned_as_in_the_paper(x: torch.Tensor, positions: torch.Tensor, theta: float) -> torch.Tensor:
    """x (..., seq, head_dim), in adjacent pairs: each a complex number, times e^(i · position · frequency)."""
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    frequencies = theta ** (-torch.arange(0, x.shape[-1], 2).double() / x.shape[-1])
    turns = torch.polar(torch.ones(1).double(), positions.double().unsqueeze(-1) * frequencies)
    return torch.view_as_real(pairs * turns).flatten(-2)


def pairs_to_halves(head_dim: int) -> torch.Tensor:
    """The permutation from the paper's adjacent pairs to the half-split layout."""
    return torch.cat((torch.arange(0, head_dim, 2), torch.arange(1, head_dim, 2)))


@pytest.mark.parametrize("head_dim", [2, 6, 10, 48])
@pytest.mark.parametrize("theta", [100.0, 10000.0, 500000.0])
def test_rotation_is_that_of_complex_numbers(head_dim, theta):
    x, positions = torch.randn(2, 3, 300, head_dim), torch.arange(300)
    order = pairs_to_halves(head_dim)
    expected = turned_as_in_the_paper(x, positions, theta)[..., order]
    rotated = rope(head_dim, theta).rotate(x[..., order], positions)
    assert (rotated - expected).abs().max() < 1e-4  # an angle of 300, in fp32


def test_position_0_is_not_rotated_and_norms_are_preserved():
    x = torch.randn(2, 3, 50, 10)
    assert torch.equal(rope(10).rotate(x, torch.zeros(50, dtype=torch.long)), x)
    torch.testing.assert_close(rope(10).rotate(x, torch.arange(50)).norm(dim=-1), x.norm(dim=-1))


def test_dot_products_depend_only_on_relative_positions():
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)
    turn = rope(16)

    def product(p: int, s: int) -> torch.Tensor:
        return (turn.rotate(q, torch.tensor([p])) * turn.rotate(k, torch.tensor([s]))).sum()

    for distance in (0, 1, 7, 40):
        products = torch.stack([product(start + distance, start) for start in (0, 3, 100, 250)])
        torch.testing.assert_close(products, products[:1].expand(4), atol=2e-4, rtol=0)
    assert abs(product(5, 0) - product(0, 5)) > 1e-3  # ahead differs from back


def test_each_row_may_have_its_own_positions():
    x, positions = torch.randn(2, 3, 4, 6), torch.tensor([[0, 1, 2, 3], [9, 4, 4, 200]])
    together = rope(6).rotate(x, positions)
    for row in range(2):
        assert torch.equal(together[row : row + 1], rope(6).rotate(x[row : row + 1], positions[row]))


def test_the_dtype_is_preserved_and_late_positions_stay_distinct_in_bf16():
    x = torch.randn(1, 1, 2, 8, dtype=torch.bfloat16)
    x[..., 1, :] = x[..., 0, :]
    late = rope(8, max_seq_len=1002).rotate(x, torch.tensor([1000, 1001]))
    assert late.dtype == torch.bfloat16
    assert (late[..., 0, :] - late[..., 1, :]).abs().max() > 0.1
