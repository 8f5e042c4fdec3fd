"""The decoding engine: many sequences at once, one to a slot of the cache; each key and value is computed once.

prompts ─ prefill ─ logits ─ sampler ─ ids ─ decode step ─ logits ─ sampler ─ ids ─ …
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from llamita.config import GenerationConfig
from llamita.errors import UserError
from llamita.generate.sampling import Sampler
from llamita.model import KVCache, Llama

PADDING = -1  # the position of a token that is neither cached nor seen


def generate_ids(
    model: Llama, prompts: Sequence[Sequence[int]], config: GenerationConfig, end_id: int | None = None
) -> Iterator[list[int | None]]:
    """Continue each prompt (a list of at least one id): yields the next id of each; None after its end token.

    The end token itself is yielded. It ends early when all have ended. Randomness is keyed by (config.seed, slot,
    token), so the same call gives the same ids. Where the context is full, the first half of each sequence is
    forgotten, and the rest prefilled again from position 0. Raises `UserError` where the model predicts NaN or
    infinity.
    """
    context, device = model.config.max_seq_len, model.lm_head.weight.device
    rows = [list(prompt)[-context:] for prompt in prompts]  # what each slot holds
    cache = KVCache(model.config, len(rows), context, model.lm_head.weight.dtype, device)
    sampler = Sampler(prompts, model.config.vocab_size, config, end_id)
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


@torch.no_grad()  # not inference mode, in which autocast would cast all weights again for each token
def prefill(model: Llama, cache: KVCache, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Compute the keys and values of each prompt into its slot -> logits (slots, vocab_size) after its last token.

    What the slots held before is forgotten. Raises `UserError` where there are NaN or infinite logits.
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
        raise UserError("the model predicts NaN or infinity: its training has diverged; name an earlier checkpoint")
    return logits


@torch.no_grad()
def decode_step(model: Llama, cache: KVCache, ids: Tensor) -> Tensor:
    """Append one token to each slot: ids (slots,) int64, on any device -> logits (slots, vocab_size) after it."""
    return model(ids.to(cache.keys.device).unsqueeze(1), cache=cache).squeeze(1)
