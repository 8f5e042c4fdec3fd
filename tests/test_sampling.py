"""Sampling: each filter against Hugging Face's or a plain one, and the distribution that is drawn."""

import itertools
import random

import pytest
import torch
from scipy.stats import chi2
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from llamita.config import GenerationConfig
from llamita.generate import Sampler, penalize_counts, penalize_repetition, sample_logits

GREEDY = {"temperature": 0.0, "top_k": 0}
SETTINGS = [
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 5},
    {"temperature": 1.3, "top_p": 0.8},
    {"temperature": 0.8, "top_k": 9, "top_p": 0.5},
    {"temperature": 2.0, "top_k": 1},
    {"temperature": 1.0, "top_p": 1e-9},
    {"temperature": 1.0, "top_k": 500},
    {"temperature": 1.5, "min_p": 0.1},
    {"temperature": 1.0, "min_p": 1.0},
    {"temperature": 1.2, "top_k": 12, "top_p": 0.9, "min_p": 0.05},
]
settings = pytest.mark.parametrize("options", SETTINGS, ids=str)


def drawn_logits(rows: int = 8, vocab_size: int = 30) -> torch.Tensor:
    return torch.randn(rows, vocab_size, generator=torch.Generator().manual_seed(1)) * 3


def warped(
    logits: torch.Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> torch.Tensor:
    """The probabilities that Hugging Face draws from."""
    logits = TemperatureLogitsWarper(temperature)(None, logits.double())
    if top_k:
        logits = TopKLogitsWarper(top_k)(None, logits)
    if top_p < 1:
        logits = TopPLogitsWarper(top_p)(None, logits)
    if min_p:
        logits = MinPLogitsWarper(min_p)(None, logits)
    return logits.softmax(dim=-1)


def shares(logits: torch.Tensor, draws: int, **options) -> torch.Tensor:
    """How often each token comes, over numbers spread evenly through [0, 1): exact to 1 / draws."""
    uniform = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    counts = torch.zeros(logits.shape, dtype=torch.float64)
    for row in range(len(logits)):
        ids = sample_logits(logits[row].expand(draws, -1), uniform=uniform, **options)
        counts[row] = torch.bincount(ids, minlength=logits.shape[1])
    return counts / draws


@settings
def test_tokens_come_as_often_as_hugging_face_draws_them(options):
    logits = drawn_logits()
    actual = shares(logits, 10_000, **{"top_k": 0, **options})
    expected = warped(logits, **options)
    assert (actual - expected).abs().max() <= 1.5e-4
    assert torch.equal(actual > 0, actual * (expected > 0) > 0)


@settings
@pytest.mark.parametrize("edge", [0.0, 1 - 2**-53, 1 - 2**-24, 1.0])
def test_at_the_edges_of_the_draw_no_token_of_probability_zero_comes(options, edge):
    logits = drawn_logits()
    logits[:, ::3] = -torch.inf
    uniform = torch.full((len(logits),), edge, dtype=torch.float64)
    ids = sample_logits(logits, **{"top_k": 0, **options}, uniform=uniform)
    chosen = warped(logits, **options).gather(1, ids.unsqueeze(1))
    assert (chosen > 0).all()


@pytest.mark.parametrize("top_k", [1, 3, 40, 99, 100, 1000])
@pytest.mark.parametrize("levels", [2, 7, 10_000])
def test_ties_are_broken_by_the_smaller_id(top_k, levels):
    """With a few levels most tokens are as likely as others; a full sort in plain Python says which are kept."""
    logits = torch.randint(levels, (5, 100), generator=torch.Generator().manual_seed(0)).float() / levels
    for place in (0.0, 0.3137, 0.999999):
        found = sample_logits(logits, temperature=1.0, top_k=top_k, uniform=torch.full((5,), place))
        for row, token in zip(logits.double().softmax(-1).tolist(), found.tolist(), strict=True):
            kept = sorted(range(100), key=lambda id, row=row: (-row[id], id))[:top_k]
            requested, total = place * sum(row[id] for id in kept), 0.0
            for id in kept:
                total += row[id]
                if total > requested:
                    break
            assert token == id


def test_without_given_randomness_torchs_generator_draws_the_distribution():
    torch.manual_seed(0)
    logits = drawn_logits(1)
    ids = sample_logits(logits.expand(20_000, -1), temperature=1.0, top_k=0)
    expected = logits.double().softmax(dim=-1)[0] * 20_000
    observed = torch.bincount(ids, minlength=30)
    common = expected >= 5
    chi_square = ((observed - expected) ** 2 / expected)[common].sum().item()
    assert chi_square < 3 * common.sum()  # far beyond the 99.99th percentile for 10 to 30 cells


def test_temperature_0_and_tiny_temperatures_are_greedy():
    logits = drawn_logits()
    assert torch.equal(sample_logits(logits, temperature=0), logits.argmax(dim=-1))
    assert torch.equal(sample_logits(logits, temperature=1e-6), logits.argmax(dim=-1))


@pytest.mark.parametrize("penalty", [1.0, 1.3, 0.8])
def test_the_repetition_penalty_is_hugging_faces(penalty):
    logits, ids = drawn_logits(4), torch.randint(30, (4, 9), generator=torch.Generator().manual_seed(2))
    seen = torch.zeros(4, 30, dtype=torch.bool).scatter_(1, ids, True)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
    torch.testing.assert_close(penalize_repetition(logits, seen, penalty), expected)


def test_top_p_keeps_the_smallest_set_with_this_mass_and_min_p_the_tokens_near_the_best():
    """By brute force, over all sets of likely tokens; numbers that are exact in binary meet the bounds exactly."""
    logits = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625]).log().unsqueeze(0)
    for top_p, kept in {0.4: 1, 0.5: 1, 0.51: 2, 0.75: 2, 0.8: 3, 0.9: 4, 0.99: 5, 1.0: 5}.items():
        assert (shares(logits, 1000, temperature=1.0, top_k=0, top_p=top_p)[0] > 0).sum() == kept
    for min_p, kept in {0.0: 5, 0.124: 5, 0.126: 3, 0.249: 3, 0.26: 2, 0.49: 2, 0.51: 1, 1.0: 1}.items():
        assert (shares(logits, 1000, temperature=1.0, top_k=0, min_p=min_p)[0] > 0).sum() == kept


@pytest.mark.parametrize(("presence", "frequency"), [(0.0, 0.0), (0.7, 0.0), (0.0, 0.3), (1.1, -0.4)])
def test_presence_and_frequency_penalties_are_those_of_openais_formula(presence, frequency):
    logits, rng = drawn_logits(3), random.Random(0)
    generated = [rng.choices(range(30), k=20) for _ in range(3)]
    counts = torch.tensor([[row.count(token) for token in range(30)] for row in generated]).double()
    found = penalize_counts(logits.double(), counts, presence, frequency)
    for row, ids in enumerate(generated):
        for token in range(30):
            expected = logits[row, token].item() - ids.count(token) * frequency - (token in ids) * presence
            assert found[row, token].item() == pytest.approx(expected)


def adjusted(sampler: Sampler, logits: torch.Tensor, generated: list[int]) -> torch.Tensor:
    """The logits that are sampled from after these tokens."""
    for token in generated:
        sampler(torch.full_like(logits, -100.0).index_fill(0, torch.tensor([token]), 100.0))
    return sampler.adjust(logits)


def test_penalties_and_biases_come_in_the_documented_order():
    """Bias, repetition penalty (prompt and text), then presence and frequency (text only); the end token of the prompt
    is no repetition."""
    config = GenerationConfig(
        repetition_penalty=1.5, presence_penalty=0.5, frequency_penalty=0.25, logit_bias=((3, 4.0), (9, -2.0), (5, 1.0))
    )
    logits, prompt, generated = drawn_logits(1)[0], [29, 3, 4, 4], [5, 6, 5]
    found = adjusted(Sampler(prompt, 30, config, end_id=29), logits, generated)
    bias = SequenceBiasLogitsProcessor({(3,): 4.0, (9,): -2.0, (5,): 1.0})
    ids = torch.tensor([[*prompt[1:], *generated]])
    expected = RepetitionPenaltyLogitsProcessor(1.5)(ids, bias(ids, logits.double().unsqueeze(0).clone()))[0]
    expected[5] -= 0.5 + 2 * 0.25
    expected[6] -= 0.5 + 0.25
    torch.testing.assert_close(found, expected)


def test_ids_that_no_token_has_are_excluded_whatever_the_bias_and_the_penalties_are():
    assigned = torch.arange(30) % 3 > 0
    config = GenerationConfig(
        temperature=2.0, top_k=0, logit_bias=((0, 100.0),), repetition_penalty=0.5, presence_penalty=-2.0
    )
    sampler = Sampler([0, 1], 30, config, assigned=assigned)
    assert all(sampler(drawn_logits(1)[0]) % 3 for _ in range(100))


def chi_square_probability(counts: torch.Tensor, expected: torch.Tensor) -> float:
    """The probability of a deviation at least this large, with tokens of fewer than 5 expected draws as one."""
    rare = expected < 5
    cells = [*zip(counts[~rare].tolist(), expected[~rare].tolist(), strict=True)]
    if expected[rare].sum() >= 5:
        cells.append((counts[rare].sum().item(), expected[rare].sum().item()))
    statistic = sum((count - mean) ** 2 / mean for count, mean in cells)
    return float(chi2.sf(statistic, max(len(cells) - 1, 1)))


@pytest.mark.parametrize("options", [options for options in SETTINGS if options.get("min_p") != 1.0], ids=str)
def test_keyed_draws_have_the_distribution_that_the_settings_describe(options):
    """Over 3,000 prompts and choices; fixed seeds, so the test is the same each time."""
    logits, counts = drawn_logits(1)[0], torch.zeros(30, dtype=torch.float64)
    config = GenerationConfig(**{"top_k": 0, **options}, seed=11)
    for number in range(3000):
        counts[Sampler([1, 2], 30, config, index=number // 3, choice=number % 3)(logits)] += 1
    expected = warped(logits.unsqueeze(0), **options)[0] * 3000
    assert counts[expected == 0].sum() == 0
    assert chi_square_probability(counts, expected) > 1e-3


def test_draws_at_successive_positions_have_the_distribution_and_are_independent():
    logits = torch.tensor([0.5, 0.25, 0.25]).log()
    sampler = Sampler([1], 3, GenerationConfig(temperature=1.0, top_k=0, seed=5))
    drawn = [sampler(logits) for _ in range(4001)]
    pairs = torch.zeros(3, 3, dtype=torch.float64)
    for one, other in itertools.pairwise(drawn):
        pairs[one, other] += 1
    share = logits.double().exp()
    assert chi_square_probability(pairs.flatten(), (share.unsqueeze(1) * share).flatten() * 4000) > 1e-3


TINY_AND_HUGE = [5e-324, 1e-308, 1e-45, 1e-6, 1e6, 1e38, 1e39, 1.7e308]


@pytest.mark.parametrize("setting", ["temperature", "top_p", "repetition_penalty"])
@pytest.mark.parametrize("value", TINY_AND_HUGE)
@pytest.mark.parametrize("more", [{}, {"top_k": 1}, {"top_p": 1e-308}, {"repetition_penalty": 1e-308}, GREEDY], ids=str)
def test_extreme_settings_sample_a_token_that_they_allow(setting, value, more):
    if setting == "top_p" and value > 1:
        return
    config = GenerationConfig(**{"max_new_tokens": 30, **more, setting: value})
    logits = torch.tensor([[3.0, -2.0, 0.0, 50.0, -80.0, 3.4e38, -3.4e38], [0.0] * 7, [-1e-38] * 7, [1e-44] * 7])
    for prompt, row in zip([[0, 3], [1], [2, 2], [5, 6]], logits, strict=True):
        sampler = Sampler(prompt, 7, config)
        assert all(0 <= sampler(row) < 7 for _ in range(20))


def test_the_smallest_temperature_and_top_p_are_greedy_decoding_and_the_largest_temperature_is_uniform():
    logits = drawn_logits()
    for options in ({"temperature": 5e-324}, {"temperature": 1e-308}, {"top_p": 5e-324}, {"top_p": 1e-308, "top_k": 3}):
        assert torch.equal(sample_logits(logits, **{"top_k": 0, **options}), logits.argmax(dim=-1))
    flat = shares(logits[:2], 3000, temperature=1.7e308, top_k=0)
    assert (flat - 1 / 30).abs().max() < 1e-3


def test_the_smallest_penalty_makes_a_likely_token_that_occurred_certain():
    sampler = Sampler([4], 6, GenerationConfig(repetition_penalty=1e-308, temperature=1.0))
    assert sampler(torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, -1.0])) == 4
