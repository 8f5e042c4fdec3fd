"""The decoding engine: sequences that join and leave, and that never notice each other."""

import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from test_generate import twins
from torch.utils.flop_counter import FlopCounterMode

from llamita import ops
from llamita.config import GenerationConfig
from llamita.errors import UserError
from llamita.generate import Engine, Sequence, decode_step, generate_ids, prefill
from llamita.model import KVCache, Llama, ModelConfig

VOCAB, CONTEXT = 61, 48
WAYS = [("fp32", "native"), ("fp32", "plain"), ("bf16", "native"), ("bf16", "plain"), ("autocast", "native")]
in_each_way = pytest.mark.parametrize(("precision", "backend"), WAYS)
GREEDY = {"temperature": 0.0, "top_k": 0}


@contextmanager
def computing(precision: str, backend: str) -> Iterator[Llama]:
    """A model with random weights, sharp as trained ones, to be used within the block."""
    config = ModelConfig(
        vocab_size=VOCAB, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, max_seq_len=CONTEXT
    )
    model = Llama(config, seed=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    model = model.to(torch.bfloat16) if precision == "bf16" else model
    autocast = torch.autocast("cpu", torch.bfloat16) if precision == "autocast" else nullcontext()
    with ops.backend(backend), autocast:
        yield model


def asked(engine: Engine, number: int) -> Sequence:
    """A request like no other, the same for the same number."""
    rng = random.Random(number)
    prompt = rng.choices(range(VOCAB), k=rng.randint(1, 30))
    config = GenerationConfig(
        max_new_tokens=rng.randint(1, 25), temperature=1.3, top_k=0, seed=number, logprobs=VOCAB, prompt_logprobs=True
    )
    return engine.add(prompt, config, index=number, slides=rng.random() < 0.5)


def result(sequence: Sequence) -> tuple[Any, ...]:
    assert sequence.finish_reason
    return sequence.ids, sequence.logprobs, sequence.prompt_logprobs, sequence.finish_reason


@in_each_way
@pytest.mark.parametrize("slots", [3, 6])
def test_a_request_is_bitwise_the_same_whoever_joins_leaves_or_is_cancelled(precision, backend, slots):
    """Each request runs alone, in its own engine; then many, in a random schedule, so that slots differ, too."""
    with computing(precision, backend) as model:
        expected = []
        for number in range(14):
            engine = Engine(model, slots)
            sequence = asked(engine, number)
            list(engine.run())
            expected.append(result(sequence))
        for seed in range(2):
            rng, engine, found, doomed = random.Random(seed), Engine(model, slots), {}, []
            order = rng.sample(range(14), 14)
            while order or engine.is_busy:
                for _ in range(min(rng.choice([0, 0, 1, 3]), len(order))):
                    found[order[-1]] = asked(engine, order[-1])
                    order.pop()
                if order and rng.random() < 0.3:
                    doomed.append(engine.add([rng.randrange(VOCAB)] * rng.randint(1, CONTEXT), GenerationConfig(9)))
                if doomed and rng.random() < 0.2:
                    engine.cancel(doomed.pop(0))
                engine.step()
            assert [result(found[number]) for number in range(14)] == expected


@in_each_way
def test_the_logits_of_a_slot_are_bitwise_the_same_in_each_slot(precision, backend):
    with computing(precision, backend) as model:
        cache = KVCache(model.config, 8, CONTEXT, model.lm_head.weight.dtype)
        first = torch.cat([prefill(model, cache, slot, [3, 1, 4]) for slot in range(8)])
        rows = [first, *(decode_step(model, cache, [token] * 8) for token in (5, 9, 2))]
    for logits in rows:
        assert all(torch.equal(logits[0], logits[slot]) for slot in range(8))


def uncached(model: Llama, prompt: list[int], count: int) -> list[int]:
    """Greedy decoding without a cache."""
    row = list(prompt)
    for _ in range(count):
        row.append(int(model(torch.tensor([row]))[0, -1].argmax()))
    return row[len(prompt) :]


def test_more_requests_than_slots_wait_and_are_all_decoded():
    with computing("fp32", "native") as model:
        prompts = [[number, 2 * number] for number in range(1, 8)]
        engine = Engine(model, 2)
        sequences = [engine.add(prompt, GenerationConfig(max_new_tokens=6, **GREEDY)) for prompt in prompts]
        most = 0
        while engine.is_busy:
            most = max(most, len(engine.step()))
        assert most == 2
        assert [sequence.ids for sequence in sequences] == [uncached(model, prompt, 6) for prompt in prompts]


def test_every_running_sequence_gets_one_token_per_step_from_the_step_in_which_it_starts():
    with computing("fp32", "native") as model:
        engine, config = Engine(model, 3), GenerationConfig(max_new_tokens=4)
        first = engine.add([1], config)
        assert [output.sequence for output in engine.step()] == [first]
        second = engine.add([2], config)
        for _ in range(3):
            assert {output.sequence for output in engine.step()} == {first, second}
        outputs = engine.step()
        assert [(output.sequence, output.finish_reason) for output in outputs] == [(second, "length")]
        assert not engine.is_busy
        assert engine.step() == []


def test_a_cancelled_sequence_leaves_its_slot_to_the_next_one():
    with computing("fp32", "native") as model:
        engine, config = Engine(model, 1), GenerationConfig(max_new_tokens=30)
        first, second, third = (engine.add([token], config) for token in (1, 2, 3))
        engine.step()
        engine.cancel(first)
        engine.cancel(third)
        assert [output.sequence for output in engine.step()] == [second]
        list(engine.run())
        engine.cancel(second)  # has finished: nothing happens
        assert [len(sequence.ids) for sequence in (first, second, third)] == [1, 30, 0]
        assert first.finish_reason is None


class Counting(torch.nn.Module):
    """Counts the tokens that a model is given."""

    def __init__(self, embedding: torch.nn.Module):
        super().__init__()
        self.embedding, self.tokens = embedding, []

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        self.tokens.append(ids.numel())
        return self.embedding(ids)


@pytest.mark.parametrize("scored", [False, True])
def test_equal_prompts_are_prefilled_once_also_after_the_first_has_finished(scored):
    with computing("fp32", "native") as model:
        model.model.embed_tokens = counting = Counting(model.model.embed_tokens)
        engine, prompt = Engine(model, 4), [5, 6, 7, 8, 9]
        config = GenerationConfig(max_new_tokens=3, temperature=1.0, top_k=0, logprobs=2, prompt_logprobs=scored)
        choices = [engine.add(prompt, config, choice=choice) for choice in range(6)]
        list(engine.run())
        assert sorted(counting.tokens) == [4, 4, 4, 4, 5]  # one prefill; 4 choices, then 2, take 2 decode steps each
        alone = Engine(model, 4).add(prompt, config, choice=5)
        assert alone.sampler.choice == 5
        for choice, sequence in enumerate(choices):
            engine = Engine(model, 4)
            alone = engine.add(prompt, config, choice=choice)
            list(engine.run())
            assert result(sequence) == result(alone)
        assert len({tuple(sequence.ids) for sequence in choices}) > 3


def test_a_slid_context_is_never_taken_for_the_prompt_it_began_with():
    with computing("fp32", "native") as model:
        engine, prompt = Engine(model, 1), [7, 3] * 20
        for _ in range(2):
            sequence = engine.add(prompt, GenerationConfig(max_new_tokens=20, **GREEDY), slides=True)
            list(engine.run())
            assert sequence.ids[:8] == uncached(model, prompt, 8)
            assert sequence.num_slides == 1


@pytest.mark.parametrize("length", [1, 30, CONTEXT - 1, CONTEXT])
def test_a_sequence_ends_with_length_when_its_context_is_full(length):
    with computing("fp32", "native") as model:
        engine = Engine(model, 2)
        sequence = engine.add([3] * length, GenerationConfig(max_new_tokens=1000, **GREEDY))
        list(engine.run())
        assert sequence.finish_reason == "length"
        assert len(sequence.ids) == CONTEXT + 1 - length  # the last one is sampled, but needs no place
        assert sequence.ids == uncached(model, sequence.prompt, len(sequence.ids))


def test_a_context_of_the_engine_may_be_shorter_than_that_of_the_model():
    with computing("fp32", "native") as model:
        engine = Engine(model, max_seq_len=10)
        sequence = engine.add([3] * 4, GenerationConfig(**GREEDY))
        list(engine.run())
        assert len(sequence.ids) == 7
        with pytest.raises(UserError, match="has 11 tokens, the context 10: shorten the prompt"):
            engine.add([1] * 11, GenerationConfig())


@pytest.mark.parametrize(
    ("prompt", "options", "said"),
    [
        ([], {}, "the prompt is empty"),
        ([1] * (CONTEXT + 1), {}, "the prompt has 49 tokens, the context 48: shorten"),
        ([VOCAB], {}, "ids that are not from 0 to 60"),
        ([-1], {}, "ids that are not from 0 to 60"),
        ([1], {"logit_bias": ((VOCAB, 1.0),)}, "logit_bias names token 61"),
        ([1], {"stop": ("x",)}, "stop needs a tokenizer"),
    ],
)
def test_a_request_that_cannot_be_decoded_is_refused_and_disturbs_nothing(prompt, options, said):
    with computing("fp32", "native") as model:
        engine = Engine(model, 2)
        engine.add([1], GenerationConfig(max_new_tokens=2))
        with pytest.raises(UserError, match=said):
            engine.add(prompt, GenerationConfig(**options))
        assert len(list(engine.run())) == 2


def test_end_tokens_and_stop_tokens_end_with_stop_and_are_among_the_ids():
    with computing("fp32", "native") as model:
        free = uncached(model, [3], 12)
        options = {"max_new_tokens": 12, **GREEDY}
        for end_id, stop in ((free[5], ()), (None, (60, free[5]))):
            engine = Engine(model, end_id=end_id)
            sequence = engine.add([3], GenerationConfig(**options, stop_token_ids=stop))
            list(engine.run())
            assert (sequence.ids, sequence.finish_reason) == (free[: free.index(free[5]) + 1], "stop")


def test_a_seed_draws_by_index_choice_and_position_and_by_nothing_else():
    with computing("fp32", "native") as model:
        config = GenerationConfig(max_new_tokens=12, temperature=1.5, top_k=0, seed=3)

        def drawn(prompt: list[int], config: GenerationConfig = config, **keyed: int) -> tuple[int, ...]:
            engine = Engine(model)
            sequence = engine.add(prompt, config, **keyed)
            list(engine.run())
            return tuple(sequence.ids)

        whole = drawn([1, 2])
        different = {whole, drawn([1, 2], index=1), drawn([1, 2], choice=1), drawn([1, 2], index=1, choice=1)}
        assert len(different) == 4
        assert drawn([1, 2, *whole[:5]])[:7] == whole[5:]  # continued with its own beginning as the prompt


def test_log_probabilities_are_those_of_a_pass_without_a_cache():
    with computing("fp32", "native") as model:
        engine, prompt = Engine(model, 2), [4, 9, 1, 33]
        config = GenerationConfig(
            max_new_tokens=8, temperature=0.3, top_k=2, logprobs=5, prompt_logprobs=True, frequency_penalty=1.0
        )
        sequence = engine.add(prompt, config)
        list(engine.run())
        row = [*prompt, *sequence.ids]
        expected = model(torch.tensor([row]))[0].log_softmax(dim=-1)  # (tokens, vocab_size)
        assert sequence.prompt_logprobs[0] is None
        found = [*sequence.prompt_logprobs[1:], *sequence.logprobs]
        assert [scored.token for scored in found] == row[1:]
        for scored, distribution in zip(found, expected, strict=False):
            assert scored.logprob == pytest.approx(distribution[scored.token].item(), abs=1e-4)
            best, ids = distribution.topk(5)
            assert [token for token, _ in scored.top] == ids.tolist()
            assert [logprob for _, logprob in scored.top] == pytest.approx(best.tolist(), abs=1e-4)


def test_a_prompt_is_scored_without_generating_anything():
    with computing("fp32", "native") as model:
        engine = Engine(model, 2)
        sequence = engine.add([4, 9, 1], GenerationConfig(max_new_tokens=0, prompt_logprobs=True))
        (output,) = engine.run()
        assert (output.token, output.logprobs, output.finish_reason) == (None, None, "length")
        assert (sequence.ids, sequence.logprobs) == ([], [])
        losses = model(torch.tensor([[4, 9]]), torch.tensor([[9, 1]]), reduction="none")[0]
        found = [scored.logprob for scored in sequence.prompt_logprobs if scored]
        assert found == pytest.approx((-losses).tolist(), abs=1e-5)


def matrix_products(compute: Any) -> tuple[float, float]:
    """Floating-point operations of matrix products (outside attention, of attention)."""
    with FlopCounterMode(display=False) as counter:
        compute()
    counts = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    attention = sum(count for op, count in counts.items() if "attention" in op or "bmm" in op)
    return sum(counts.values()) - attention, attention


@torch.no_grad()
def test_with_the_cache_a_token_costs_the_same_matrix_products_however_many_are_cached():
    """Without the cache they grow with the number of tokens."""
    with computing("fp32", "plain") as model:
        cached, recomputed = [], []
        for length in (4, 16, 40):
            engine = Engine(model)
            engine.add([1] * length, GenerationConfig(**GREEDY))
            engine.step()
            cached.append(matrix_products(engine.step)[0])
            row = torch.ones(1, length + 1, dtype=torch.int64)
            last = torch.tensor([length])
            recomputed.append(matrix_products(lambda row=row, last=last: model(row, logits_at=last))[0])
        head = 2 * VOCAB * model.config.hidden_size
        assert cached[0] == cached[1] == cached[2] > 0
        blocks = cached[0] - head
        assert recomputed == [blocks * (length + 1) + head for length in (4, 16, 40)]


def test_logits_are_computed_after_the_last_token_only_unless_the_prompt_is_scored():
    with computing("fp32", "plain") as model:
        rows = []
        for scored in (False, True):
            engine = Engine(model, 1)
            engine.add([1] * 20, GenerationConfig(**GREEDY, prompt_logprobs=scored))
            rows.append(matrix_products(engine.step)[0])
        assert rows[1] - rows[0] == 19 * 2 * VOCAB * model.config.hidden_size


@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_sequences_that_join_one_after_another_write_what_hugging_face_writes(penalty):
    ours, theirs = twins()
    prompts = [[3], [1, 2, 3, 4, 5, 6, 7, 8, 9], [7, 7], [20, 1, 4, 9]]
    config = GenerationConfig(max_new_tokens=25, repetition_penalty=penalty, **GREEDY)
    engine, sequences = Engine(ours, 3), []
    for prompt in prompts:
        sequences.append(engine.add(prompt, config))
        engine.step()
    list(engine.run())
    options = {"max_new_tokens": 25, "do_sample": False, "repetition_penalty": penalty, "eos_token_id": None}
    for prompt, sequence in zip(prompts, sequences, strict=True):
        expected = theirs.generate(torch.tensor([prompt]), pad_token_id=0, **options)
        assert sequence.ids == expected[0, len(prompt) :].tolist()
    assert generate_ids(ours, prompts, config) == [sequence.ids for sequence in sequences]
