"""The decoding engine: a batch of sequences, one per slot of the KV cache.

prompts ─ prefill ─ logits ─ sampler ─ ids ─ decode step ─ logits ─ sampler ─ ids ─ …
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from llamita.config import GenerationConfig
from llamita.errors import UserError
from llamita.generate.sampling import Sampler
from llamita.model import KVCache, Llama

PADDING = -1  # the position of a token that is neither cached nor attended to


def generate_ids(
    model: Llama,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    end_id: int | None = None,
    assigned: Tensor | None = None,
) -> Iterator[list[int | None]]:
    """Continue each prompt (a list of at least one id): yields the next id of each; None after its end token.

    The end token itself is yielded. Decoding stops when all have ended. Randomness is keyed by (config.seed, slot,
    token), so the same call gives the same ids. When the context is full, the first half of each sequence is
    dropped, and the rest is prefilled again from position 0. `assigned`: (vocab_size,) bool, the ids that may be
    sampled; None: all. Raises `UserError` for NaN or infinite logits.
    """
    context, device = model.config.max_seq_len, model.lm_head.weight.device
    rows = [list(prompt)[-context:] for prompt in prompts]  # the ids in each slot
    cache = KVCache(model.config, len(rows), context, model.lm_head.weight.dtype, device)
    sampler = Sampler(prompts, model.config.vocab_size, config, end_id, assigned)
    logits = prefill(model, cache, rows)
    running = [True] * len(rows)
    for remaining in reversed(range(config.max_new_tokens)):
        ids = sampler(logits)
        step = [token if alive else None for token, alive in zip(ids.tolist(), running, strict=True)]
        yield step
        running = [alive and token != end_id for token, alive in zip(step, running, strict=True)]
        if not any(running) or remaining == 0:
            return
        rows = [[*row, token] for row, token in zip(rows, ids.tolist(), strict=True)]
        if cache.longest < context:
            logits = decode_step(model, cache, ids)
        else:
            rows = [row[-(context // 2) or -1 :] for row in rows]
            logits = prefill(model, cache, rows)


@torch.no_grad()  # not inference mode, where autocast would cast all weights again for each token
def prefill(model: Llama, cache: KVCache, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Fill the KV cache with each prompt, in a slot of its own -> logits (slots, vocab_size) after its last token.

    Clears the slots first. Raises `UserError` for NaN or infinite logits.
    """
    for slot in range(len(prompts)):
        cache.clear(slot)
    device, longest = cache.keys.device, max(map(len, prompts))
    ids = [[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts]
    positions = [[*range(len(prompt)), *[PADDING] * (longest - len(prompt))] for prompt in prompts]
    last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
    logits = model(
        torch.tensor(ids, device=device),  # (slots, longest)
        positions=torch.tensor(positions, device=device),
        cache=cache,
        logits_at=last,
    ).squeeze(1)
    if not logits.isfinite().all():
        raise UserError("the model outputs NaN or infinite logits: training has diverged; use an earlier checkpoint")
    return logits


@torch.no_grad()
def decode_step(model: Llama, cache: KVCache, ids: Tensor) -> Tensor:
    """Append one token to each slot: ids (slots,) int64, on any device -> logits (slots, vocab_size) after it."""
    return model(ids.to(cache.keys.device).unsqueeze(1), cache=cache).squeeze(1)
