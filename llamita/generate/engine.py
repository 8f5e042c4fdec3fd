"""The decoding engine: a fixed number of sequences decoded together, one per slot of the KV cache.

    add ─ waiting ─ prefill ─ logits ─ sampler ─ id ─ decode step ─ logits ─ sampler ─ id ─ … ─ finished

Sequences join and leave between steps (continuous batching; Yu et al., 2022). `prefill` and `decode_step` call the
model's own `forward`. What a sequence generates does not depend on its neighbours, bit for bit, at a fixed number of
slots: a prompt is prefilled alone, each slot attends over its own keys, the batch of a decode step always has all
slots, and randomness is keyed (see `Sampler`).
"""

from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as Ids
from dataclasses import dataclass

import torch
from torch import Tensor

from llamita.config import GenerationConfig
from llamita.errors import UserError
from llamita.generate.detokenizer import Detokenizer
from llamita.generate.sampling import Sampler
from llamita.generate.sequence import FinishReason, Sequence, TokenLogprobs, token_logprobs
from llamita.model import KVCache, Llama
from llamita.ops.backend import autocast_dtype
from llamita.tokenizer import Tokenizer

PADDING = -1  # the position of a token that is neither cached nor attended to
MOST_SLOTS = 16  # of sequences that are decoded together, where the caller does not say


@torch.no_grad()  # not inference mode, where autocast would cast all weights again for each token
def prefill(model: Llama, cache: KVCache, slot: int, prompt: Ids[int], every: bool = False) -> Tensor:
    """Fill a slot of the KV cache with a prompt -> logits (1, vocab_size) after its last token.

    Clears the slot first. `every`: logits after each token, (len(prompt), vocab_size). Raises `UserError` for NaN or
    infinite logits.
    """
    cache.clear(slot)
    device = cache.keys.device
    last = None if every else torch.tensor([len(prompt) - 1], device=device)
    ids = torch.tensor([list(prompt)], device=device)  # (1, len(prompt))
    logits = model(ids, cache=cache.slot(slot), logits_at=last).squeeze(0)
    if not logits.isfinite().all():
        raise UserError("the model outputs NaN or infinite logits: training has diverged; use an earlier checkpoint")
    return logits


@torch.no_grad()
def decode_step(model: Llama, cache: KVCache, ids: Ids[int | None]) -> Tensor:
    """Append a token to each slot: one id per slot, None where nothing is appended -> logits (slots, vocab_size).

    The logits of a slot without a new token have no meaning.
    """
    device, lengths = cache.keys.device, cache.lengths.tolist()
    positions = [PADDING if token is None else length for token, length in zip(ids, lengths, strict=True)]
    tokens = torch.tensor([[token or 0] for token in ids], device=device)  # (slots, 1)
    return model(tokens, positions=torch.tensor(positions, device=device).unsqueeze(1), cache=cache).squeeze(1)


@dataclass(frozen=True)
class Output:
    """What a step produced for one sequence: a token, its text, and whether the sequence has finished.

    token           None if only the prompt was scored (max_new_tokens 0)
    text            new text, often empty: incomplete characters and possible stop strings are held back
    logprobs        of the token, if requested
    finish_reason   None: the sequence continues
    """

    sequence: Sequence
    token: int | None
    text: str
    logprobs: TokenLogprobs | None
    finish_reason: FinishReason | None


@dataclass(frozen=True)
class Prefilled:
    """What a prefill found, kept for equal prompts. The keys of the prompt stay in the slot."""

    key: tuple[object, ...]
    logits: Tensor  # (vocab_size,) after the last token
    scores: list[TokenLogprobs | None]


class Engine:
    """Decodes requests with continuous batching.

    >>> engine = Engine(model, slots=8, tokenizer=tokenizer)
    >>> sequence = engine.add(prompt_ids(tokenizer, "Once"), GenerationConfig())
    >>> while engine.is_busy:
    ...     for output in engine.step():
    ...         print(output.text, end="")

    The weights must not change while an engine is used: equal prompts are prefilled once.
    """

    def __init__(
        self,
        model: Llama,
        slots: int = 1,
        tokenizer: Tokenizer | None = None,
        *,
        end_id: int | None = None,
        max_seq_len: int = 0,
    ):
        """Allocate a KV cache of `slots` sequences of `max_seq_len` tokens; 0: the model's context length.

        `tokenizer`: for text, stop strings and the end token; without it, `end_id` is the end token, and sequences have
        no text. The model should be in eval mode.
        """
        weight = model.lm_head.weight
        context = max_seq_len or model.config.max_seq_len
        dtype = autocast_dtype(weight) or weight.dtype
        self.model, self.slots, self.tokenizer, self.context = model, slots, tokenizer, context
        self.end_id = tokenizer.end_id if tokenizer else end_id
        self.assigned = assigned_ids(tokenizer, model.config.vocab_size) if tokenizer else None
        rows = batch_rows(slots, model.config.intermediate_size)
        self.cache = KVCache(model.config, rows, context, dtype, weight.device)
        self.waiting: deque[Sequence] = deque()
        self.running: dict[int, Sequence] = {}  # by slot
        self.prefilled: dict[int, Prefilled] = {}  # by slot

    @property
    def is_busy(self) -> bool:
        """Whether any sequence is running or waiting."""
        return bool(self.running or self.waiting)

    def add(
        self, prompt: Ids[int], config: GenerationConfig, *, index: int = 0, choice: int = 0, slides: bool = False
    ) -> Sequence:
        """Queue a request: it starts as soon as a slot is free.

        `index` and `choice` key its randomness: the number of the prompt in its call, and of its continuation. When the
        context is full, the sequence ends with finish_reason "length"; with `slides`, the first half of the context is
        dropped and the rest prefilled again from position 0.

        Raises `UserError` for a prompt that is empty, longer than the context or not in the vocabulary, for a bias of
        such a token, and for stop strings without a tokenizer.
        """
        self._check(prompt, config)
        vocab_size = self.model.config.vocab_size
        keyed = {"index": index, "choice": choice}
        sampler = Sampler(prompt, vocab_size, config, **keyed, end_id=self.end_id, assigned=self.assigned)
        detokenizer = Detokenizer(self.tokenizer, config.stop) if self.tokenizer else None
        sequence = Sequence(list(prompt), config, sampler, detokenizer, index, choice, slides)
        self.waiting.append(sequence)
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """Remove a sequence, running or waiting, and free its slot; nothing if it has finished."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        for slot in [slot for slot, running in self.running.items() if running is sequence]:
            self._free(slot)

    def step(self) -> list[Output]:
        """One token for each running sequence, and for those that start now. One slot is refilled per step; all, if no
        sequence is running."""
        decoded = self._decode() if self.running else {}
        admitted = self._admit(1 if self.running else self.slots)
        return [self._append(slot, logits) for slot, logits in {**decoded, **admitted}.items()]

    def run(self) -> Iterator[Output]:
        """Step until no sequence is running or waiting, and yield all outputs."""
        while self.is_busy:
            yield from self.step()

    def _check(self, prompt: Ids[int], config: GenerationConfig) -> None:
        if not prompt:
            raise UserError("the prompt is empty: give at least one token")
        if len(prompt) > self.context:
            raise UserError(f"the prompt has {len(prompt):,} tokens, the context {self.context:,}: shorten the prompt")
        if not 0 <= min(prompt) <= max(prompt) < self.model.config.vocab_size:
            raise UserError(f"the prompt has ids that are not from 0 to {self.model.config.vocab_size - 1}")
        if config.stop and self.tokenizer is None:
            raise UserError("stop needs a tokenizer: give the engine one, or use stop_token_ids")

    def _admit(self, most: int) -> dict[int, Tensor]:
        """Prefill waiting sequences into free slots -> logits (vocab_size,) by slot."""
        free = [slot for slot in range(self.slots) if slot not in self.running]
        started = {}
        for slot in free[: min(most, len(self.waiting))]:
            self.running[slot] = self.waiting.popleft()
            started[slot] = self._prefill(slot, self.running[slot])
        return started

    def _prefill(self, slot: int, sequence: Sequence) -> Tensor:
        """Fill a slot with the prompt of a sequence, copied where another slot has it -> logits (vocab_size,)."""
        found = next((source for source, kept in self.prefilled.items() if kept.key == sequence.prefill_key), None)
        if found is None:
            self.prefilled[slot] = self._compute_prefill(slot, sequence)
        else:
            self.cache.copy_slot(found, slot, len(sequence.prompt))
            self.prefilled[slot] = self.prefilled[found]
        sequence.prompt_logprobs = list(self.prefilled[slot].scores)
        return self.prefilled[slot].logits

    def _compute_prefill(self, slot: int, sequence: Sequence) -> Prefilled:
        prompt, config = sequence.prompt, sequence.config
        self.prefilled.pop(slot, None)
        logits = prefill(self.model, self.cache, slot, prompt, every=config.prompt_logprobs)
        scores: list[TokenLogprobs | None] = []
        if config.prompt_logprobs:
            scores = [None, *token_logprobs(logits[:-1], prompt[1:], config.logprobs or 0)]
        return Prefilled(sequence.prefill_key, logits[-1].clone(), scores)

    def _decode(self) -> dict[int, Tensor]:
        """The logits (vocab_size,) after the last token of each running sequence, by slot."""
        full = [slot for slot in self.running if self.cache.lengths[slot] == self.context]
        logits = {slot: self._slide(slot) for slot in full}
        ids = [None if slot in full else self._last_id(slot) for slot in range(len(self.cache.lengths))]
        if len(full) < len(self.running):
            batch = decode_step(self.model, self.cache, ids)
            logits.update({slot: batch[slot] for slot in self.running if slot not in full})
        return logits

    def _last_id(self, slot: int) -> int | None:
        return self.running[slot].ids[-1] if slot in self.running else None

    def _slide(self, slot: int) -> Tensor:
        """Drop the first half of a full context, and prefill the rest from position 0 -> logits (vocab_size,)."""
        sequence = self.running[slot]
        sequence.num_slides += 1
        self.prefilled.pop(slot, None)
        kept = [*sequence.prompt, *sequence.ids][-(self.context // 2) or -1 :]
        return prefill(self.model, self.cache, slot, kept)[0]

    def _append(self, slot: int, logits: Tensor) -> Output:
        """Sample the next token of a slot, and end its sequence where that is due."""
        sequence, token = self.running[slot], None
        if sequence.config.max_new_tokens > 0:
            token = sequence.sample(logits)
        ends = token is not None and (token == self.end_id or token in sequence.config.stop_token_ids)
        sequence.finish_reason = "stop" if ends else "length" if self._is_at_its_limit(slot) else None
        piece = "" if token is None else sequence.write(token, ends)
        if sequence.detokenizer and sequence.detokenizer.has_stopped:
            sequence.finish_reason = "stop"
        if sequence.finish_reason:
            self._free(slot)
        logprobs = sequence.logprobs[-1] if sequence.logprobs else None
        return Output(sequence, token, piece, logprobs, sequence.finish_reason)

    def _is_at_its_limit(self, slot: int) -> bool:
        sequence = self.running[slot]
        is_full = int(self.cache.lengths[slot]) == self.context and not sequence.slides
        return is_full or len(sequence.ids) >= sequence.config.max_new_tokens

    def _free(self, slot: int) -> None:
        """Empty a slot. The keys of its prompt stay, for equal prompts, until the next sequence overwrites them."""
        del self.running[slot]
        self.cache.clear(slot)


def batch_rows(slots: int, intermediate_size: int) -> int:
    """The rows of a decode step, at least one per slot, such that all rows are rounded alike.

    In batches of 5 to 7, 9 to 11, … some matrix products round the last rows otherwise. Vectorized functions round the
    rest of a tensor otherwise, whose number of elements is not a multiple of two vectors.
    """
    step = 4
    while step * intermediate_size % 32 and step < 32:
        step *= 2
    return 1 if slots == 1 else -(-slots // step) * step


def assigned_ids(tokenizer: Tokenizer, vocab_size: int) -> Tensor | None:
    """(vocab_size,) bool: the ids of a model's vocabulary that a token has; None where that is all of them.

    A tokenizer may leave ids unused, and a model's vocabulary may be padded beyond the tokenizer's.
    """
    assigned = torch.zeros(vocab_size, dtype=torch.bool)
    assigned[: tokenizer.vocab_size] = torch.from_numpy(tokenizer.assigned)[:vocab_size]
    return None if assigned.all() else assigned
