"""The decoding engine: many sequences at once, token by token, each key and value computed once."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from llamita.config import GenerationConfig
from llamita.errors import UserError
from llamita.generate.sampling import penalize_repetition, sample_logits
from llamita.model import KVCache, Llama
from llamita.randomness import key

PADDING = -1


@torch.no_grad()  # in inference mode autocast would narrow all weights again for each token
def generate_ids(
    model: Llama, prompts: Sequence[Sequence[int]], config: GenerationConfig, end_id: int | None = None
) -> Iterator[list[int | None]]:
    """Continue each prompt (a list of at least one id): yields the next ids, one a prompt; None behind its end token.

    The end token itself is yielded. It ends early when all have ended. Randomness is keyed by (config.seed, row,
    position), so the same call gives the same ids. Where the context is full, the first half of what is in it is
    forgotten and the rest read again from position 0. Raises `UserError` where the model predicts NaN or infinity.
    """
    rows = [list(prompt)[-model.config.max_seq_len :] for prompt in prompts]
    seen = _seen(prompts, model.config.vocab_size)
    if end_id is not None:
        seen[:, end_id] = False  # it begins every document, and must not become less likely for that
    cache, logits = _read(model, rows)
    running = [True] * len(rows)
    for drawn in range(config.max_new_tokens):
        ids = _draw(logits, seen, config, drawn)
        seen[torch.arange(len(rows)), ids] = True
        step = [token if alive else None for token, alive in zip(ids.tolist(), running, strict=True)]
        yield step
        running = [alive and token != end_id for token, alive in zip(step, running, strict=True)]
        if not any(running) or drawn + 1 == config.max_new_tokens:
            return
        for row, token in zip(rows, ids.tolist(), strict=True):
            row.append(token)
        if cache.longest == model.config.max_seq_len:
            rows = [row[-(model.config.max_seq_len // 2) or -1 :] for row in rows]
            cache, logits = _read(model, rows)
        else:
            logits = model(ids.unsqueeze(1), cache=cache)[:, -1]


def _read(model: Llama, rows: list[list[int]]) -> tuple[KVCache, Tensor]:
    """Fill a new cache with the prompts -> (cache, logits (batch, vocab_size) behind each prompt's last token)."""
    device = next(model.parameters()).device
    cache = KVCache(model.config, len(rows), model.config.max_seq_len, model.lm_head.weight.dtype, device)
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
    places = [list(range(len(row))) + [PADDING] * (longest - len(row)) for row in rows]
    logits = model(ids, positions=torch.tensor(places, device=device), cache=cache)
    last = torch.tensor([len(row) - 1 for row in rows], device=device)
    behind = logits[torch.arange(len(rows), device=device), last]
    if not behind.isfinite().all():
        raise UserError("what the model predicts are no numbers: its training has diverged; name an earlier checkpoint")
    return cache, behind


def _draw(logits: Tensor, seen: Tensor, config: GenerationConfig, drawn: int) -> Tensor:
    if config.repetition_penalty != 1:
        logits = penalize_repetition(logits, seen.to(logits.device), config.repetition_penalty)
    # A number a row and position, on the CPU: the same draws whatever the device and the other rows.
    uniform = [key(config.seed, "sample", row, drawn) / 2**63 for row in range(len(logits))]
    return sample_logits(
        logits,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        uniform=torch.tensor(uniform, dtype=torch.float64, device=logits.device),
    )


def _seen(prompts: Sequence[Sequence[int]], vocab_size: int) -> Tensor:
    """(batch, vocab_size) bool: which tokens occur in which prompt."""
    seen = torch.zeros(len(prompts), vocab_size, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        seen[row, list(prompt)] = True
    return seen
