"""The KV cache does not change the model's output: token by token, in chunks, for slots of different lengths."""

import random

import pytest
import torch

from llamita.model import KVCache, Llama, ModelConfig

VOCAB = 31
HEADS = pytest.mark.parametrize("num_kv_heads", [4, 2, 1])


def model_with(num_kv_heads: int = 2, **changes) -> Llama:
    shape = {"vocab_size": VOCAB, "hidden_size": 24, "num_layers": 3, "num_heads": 4, "head_dim": 10, "max_seq_len": 32}
    model = Llama(ModelConfig(num_kv_heads=num_kv_heads, **{**shape, **changes})).eval()
    torch.manual_seed(num_kv_heads)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 1.0) if parameter.dim() < 2 else parameter.normal_(0, parameter.shape[1] ** -0.5)
    return model.requires_grad_(False)


def drawn_ids(*shape: int) -> torch.Tensor:
    return torch.randint(VOCAB, shape)


def assert_near(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert expected.abs().max() > 0.5  # not a comparison of zeros
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1)


def padded(rows: list[torch.Tensor], starts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of different lengths as ids and positions (rows, longest), where position -1 is padding."""
    ids = torch.full((len(rows), max(map(len, rows))), 3)
    positions = torch.full_like(ids, -1)
    for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
        ids[i, : len(row)] = row
        positions[i, : len(row)] = start + torch.arange(len(row))
    return ids, positions


@HEADS
@pytest.mark.parametrize("chunks", [[1] * 20, [20], [7, 13], [1, 9, 1, 1, 8], [19, 1]], ids=str)
def test_chunked_prefill_equals_one_pass_without_the_cache(num_kv_heads, chunks):
    model, ids = model_with(num_kv_heads), drawn_ids(2, 20)
    cache = KVCache(model.config, slots=2, max_seq_len=20)
    cached = torch.cat([model(chunk, cache=cache) for chunk in ids.split(chunks, dim=1)], dim=1)
    assert_near(cached, model(ids))
    assert cache.lengths.tolist() == [20, 20]


@HEADS
def test_slots_of_different_lengths_decode_together_as_alone(num_kv_heads):
    model, lengths, decoded = model_with(num_kv_heads), [5, 1, 11, 8], 9
    rows = [drawn_ids(length + decoded) for length in lengths]
    cache = KVCache(model.config, slots=4, max_seq_len=20)
    ids, positions = padded([row[:length] for row, length in zip(rows, lengths, strict=True)], [0] * 4)
    steps = [model(ids, positions=positions, cache=cache)]
    assert cache.lengths.tolist() == lengths
    for step in range(decoded):
        following = torch.stack([row[length + step] for row, length in zip(rows, lengths, strict=True)])
        steps.append(model(following.unsqueeze(1), cache=cache))
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        cached = torch.cat([steps[0][i, :length], *(logits[i] for logits in steps[1:])])
        assert_near(cached, model(row.unsqueeze(0))[0])


@HEADS
@pytest.mark.parametrize("seed", range(4))
def test_any_schedule_of_chunks_padding_and_idle_slots_equals_one_pass(num_kv_heads, seed):
    """Each call gives each slot zero, one or several tokens, as a serving engine with continuous batching does."""
    rng, model = random.Random(seed), model_with(num_kv_heads)
    torch.manual_seed(seed)
    rows, done = [drawn_ids(rng.randint(3, 25)) for _ in range(3)], [0, 0, 0]
    logits: list[list[torch.Tensor]] = [[], [], []]
    cache = KVCache(model.config, slots=3, max_seq_len=25)
    while any(place < len(row) for row, place in zip(rows, done, strict=True)):
        parts = [row[place : place + rng.choice([0, 1, 1, 4])] for row, place in zip(rows, done, strict=True)]
        if not any(map(len, parts)):
            continue
        ids, positions = padded(parts, done)
        out = model(ids, positions=positions, cache=cache)
        for i, part in enumerate(parts):
            logits[i].append(out[i, : len(part)])
            done[i] += len(part)
        assert cache.lengths.tolist() == done
    for row, parts in zip(rows, logits, strict=True):
        assert_near(torch.cat(parts), model(row.unsqueeze(0))[0])


def test_padding_is_never_attended_to_and_never_cached():
    model, row = model_with(), drawn_ids(6)
    outcomes = []
    for filler in (0, 1, 30):
        cache = KVCache(model.config, slots=2, max_seq_len=12)
        ids, positions = padded([row, row[:2]], [0, 0])
        ids[positions < 0] = filler
        first = model(ids, positions=positions, cache=cache)
        second = model(torch.tensor([[4], [5]]), cache=cache)
        assert torch.isfinite(first).all()
        outcomes.append(torch.cat((first[0], first[1, :2], second[:, 0])))
    assert torch.equal(outcomes[0], outcomes[1])
    assert torch.equal(outcomes[0], outcomes[2])


def test_a_cleared_slot_starts_from_scratch():
    model = model_with()
    cache = KVCache(model.config, slots=2, max_seq_len=16)
    first, second, new = drawn_ids(2, 12), drawn_ids(1, 3), drawn_ids(1, 5)
    model(first, cache=cache)
    cache.clear(0)
    assert cache.lengths.tolist() == [0, 12]
    ids, positions = padded([new[0], second[0]], [0, 12])
    logits = model(ids, positions=positions, cache=cache)
    assert_near(logits[0], model(new)[0])
    assert_near(logits[1, :3], model(torch.cat((first[1:], second), dim=1))[0, 12:])
    assert cache.lengths.tolist() == [5, 15]


def test_a_slot_attends_over_its_own_keys_only_bit_for_bit():
    """A neighbour of any length changes nothing, not even the rounding."""
    model, row, outcomes = model_with(), drawn_ids(6), []
    for length in (1, 6, 25):
        cache = KVCache(model.config, slots=2, max_seq_len=32)
        for slot, prompt in enumerate((row, drawn_ids(length))):
            model(prompt.unsqueeze(0), cache=cache.slot(slot))
        assert cache.lengths.tolist() == [6, length]
        outcomes.append(torch.stack([model(torch.tensor([[4], [5]]), cache=cache)[0] for _ in range(4)]))
    assert torch.equal(outcomes[0], outcomes[1])
    assert torch.equal(outcomes[0], outcomes[2])


def test_a_view_of_a_slot_and_its_copy_continue_as_the_whole_row_does():
    model, ids = model_with(), drawn_ids(1, 14)
    cache = KVCache(model.config, slots=3, max_seq_len=20)
    model(ids[:, :9], cache=cache.slot(1))
    cache.copy_slot(1, 2, 5)
    assert cache.lengths.tolist() == [0, 9, 5]
    assert_near(model(ids[:, 9:], cache=cache.slot(1)), model(ids)[:, 9:])
    assert_near(model(ids[:, 5:], cache=cache.slot(2)), model(ids)[:, 5:])


def test_more_tokens_than_the_cache_holds_are_refused_and_nothing_changes():
    model, ids = model_with(), drawn_ids(2, 9)
    cache = KVCache(model.config, slots=2, max_seq_len=8)
    with pytest.raises(ValueError, match="holds 8 tokens"):
        model(ids, cache=cache)
    model(ids[:, :8], cache=cache)
    with pytest.raises(ValueError, match="position 8 does not fit"):
        model(ids[:, 8:], cache=cache)
    assert cache.lengths.tolist() == [8, 8]


def test_a_batch_of_another_size_than_the_slots_is_refused():
    model = model_with()
    for rows in (1, 3):
        with pytest.raises(ValueError, match="2 slots"):
            model(drawn_ids(rows, 4), cache=KVCache(model.config, slots=2, max_seq_len=8))


def test_documents_and_a_cache_are_refused_together():
    model, ids = model_with(), drawn_ids(1, 4)
    with pytest.raises(ValueError, match="document_ids"):
        model(ids, document_ids=torch.zeros_like(ids), cache=KVCache(model.config, slots=1, max_seq_len=8))


def test_the_cache_is_allocated_once_and_written_in_place():
    model = model_with()
    cache = KVCache(model.config, slots=1, max_seq_len=32)
    places = cache.keys.data_ptr(), cache.values.data_ptr()
    for token in drawn_ids(32, 1, 1):
        model(token, cache=cache)
    assert places == (cache.keys.data_ptr(), cache.values.data_ptr())


def test_greedy_generation_is_the_same_with_and_without_the_cache():
    model, cached = model_with(), drawn_ids(1, 4)
    uncached, cache = cached, KVCache(model.config, slots=1, max_seq_len=32)
    following = cached
    for _ in range(28):
        following = model(following, cache=cache)[:, -1].argmax(-1, keepdim=True)
        cached = torch.cat((cached, following), dim=1)
        uncached = torch.cat((uncached, model(uncached)[:, -1].argmax(-1, keepdim=True)), dim=1)
    assert torch.equal(cached, uncached)


def test_logits_at_one_index_of_each_row_are_those_of_the_whole_pass():
    model, ids = model_with(), drawn_ids(3, 20)
    last = torch.tensor([4, 19, 0])
    some = model(ids, logits_at=last)
    assert some.shape == (3, 1, VOCAB)
    assert_near(some[:, 0], model(ids)[torch.arange(3), last])
