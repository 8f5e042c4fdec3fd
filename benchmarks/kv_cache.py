"""KV cache: greedy generation with and without it, on the same model. `python benchmarks/kv_cache.py`.

Both loops are as simple as possible. Without the cache, every new token costs a forward pass over all previous tokens;
with it, a forward pass over one. The two are timed alternately, so that noise affects both alike. If other programs run
at the same time, torch's threads wait for one another: set OMP_NUM_THREADS=1.
"""

import os
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from llamita.model import KVCache, Llama, ModelConfig

ROUNDS = {64: 5, 256: 3, 1024: 1}
"""New tokens -> rounds. The longest run without the cache is measured once, since it takes longest by far."""

CONFIG = ModelConfig(vocab_size=2048, hidden_size=320, num_layers=4, num_heads=5, max_seq_len=1100)
PROMPT = torch.arange(1, 9).unsqueeze(0)  # (1, 8)


def with_cache(model: Llama, new_tokens: int) -> Tensor:
    """(1, prompt + new_tokens) ids."""
    cache = KVCache(model.config, slots=1, max_seq_len=PROMPT.shape[1] + new_tokens)
    ids = PROMPT
    logits = model(ids, cache=cache)
    for _ in range(new_tokens):
        chosen = logits[:, -1].argmax(-1, keepdim=True)  # (1, 1)
        ids = torch.cat((ids, chosen), dim=1)
        if ids.shape[1] < PROMPT.shape[1] + new_tokens:
            logits = model(chosen, cache=cache)
    return ids


def without_cache(model: Llama, new_tokens: int) -> Tensor:
    """(1, prompt + new_tokens) ids."""
    ids = PROMPT
    for _ in range(new_tokens):
        ids = torch.cat((ids, model(ids)[:, -1].argmax(-1, keepdim=True)), dim=1)
    return ids


def seconds(generate: Callable[[Llama, int], Tensor], model: Llama, new_tokens: int) -> float:
    """Wall-clock time of one generation."""
    start = time.perf_counter()
    generate(model, new_tokens)
    return time.perf_counter() - start


def measure(model: Llama, new_tokens: int) -> tuple[float, float]:
    """The median seconds (with the cache, without it)."""
    pairs = [(seconds(with_cache, model, new_tokens), seconds(without_cache, model, new_tokens))
             for _ in range(ROUNDS[new_tokens])]  # fmt: skip
    cached, uncached = zip(*pairs, strict=True)
    return statistics.median(cached), statistics.median(uncached)


@torch.inference_mode()
def main() -> None:
    """Print the table."""
    model = Llama(CONFIG).eval()
    millions = sum(model.num_parameters().values()) / 1e6
    machine = f"{torch.get_num_threads()} of {os.cpu_count()} cores, torch {torch.__version__}"
    print(f"{millions:.1f} M parameters, fp32, batch 1; {machine}\n")
    print("| new tokens | with the cache, tokens/s | without, tokens/s | speed-up | rounds |")
    print("|---:|---:|---:|---:|---:|")
    assert torch.equal(with_cache(model, 16), without_cache(model, 16))  # same tokens; also the warm-up
    for new_tokens, rounds in ROUNDS.items():
        cached, uncached = measure(model, new_tokens)
        speeds = f"{new_tokens / cached:,.0f} | {new_tokens / uncached:,.0f} | {uncached / cached:.1f} x"
        print(f"| {new_tokens:,} | {speeds} | {rounds} |", flush=True)


if __name__ == "__main__":
    main()
