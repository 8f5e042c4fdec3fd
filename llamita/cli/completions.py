"""What `llamita generate` prints: text as it is generated, or JSON lines."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from llamita.cli.messages import print_note
from llamita.cli.prompts import check_prompt
from llamita.config import GenerationConfig
from llamita.generate import Engine, Output, TokenLogprobs, printable_pieces
from llamita.generate import Sequence as Decoded
from llamita.generate.engine import MOST_SLOTS
from llamita.model import Llama
from llamita.tokenizer import Tokenizer


class Completions:
    """Continues prompts with one model and prints the continuations in order, each as early as possible."""

    def __init__(self, model: Llama, tokenizer: Tokenizer, config: GenerationConfig, choices: int, as_json: bool):
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.choices, self.as_json, self.num_prompts, self.has_noted = choices, as_json, 0, False

    def write(self, prompts: Sequence[str]) -> None:
        """Print the continuations of `prompts`, each with randomness of its own.

        Raises `UserError` for a prompt that the tokenizer cannot encode, before anything is generated.
        """
        encoded = [check_prompt(prompt, self.tokenizer, self.model.config.max_seq_len) for prompt in prompts]
        engine = Engine(self.model, min(len(prompts) * self.choices, MOST_SLOTS), self.tokenizer)
        queued = []
        for prompt, ids in zip(prompts, encoded, strict=True):
            queued += [(prompt, self._add(engine, ids, choice)) for choice in range(self.choices)]
            self.num_prompts += 1
        outputs = self._noting(engine.run())
        for number, (prompt, sequence) in enumerate(queued):
            if self.as_json:
                self._print_json(prompt, sequence, outputs)
            else:
                print(end="\n" if number else "")  # a blank line between texts
                print_pieces(prompt, pieces_of(sequence, outputs))

    def _add(self, engine: Engine, ids: list[int], choice: int) -> Decoded:
        return engine.add(ids, self.config, index=self.num_prompts, choice=choice, slides=True)

    def _noting(self, outputs: Iterator[Output]) -> Iterator[Output]:
        """The outputs; a note says once that a context was full."""
        for output in outputs:
            if output.sequence.num_slides and not self.has_noted:
                self.has_noted = True
                context = self.model.config.max_seq_len
                print_note(
                    f"the context of {context:,} tokens is full: its first half is dropped, and the text continues"
                )
            yield output

    def _print_json(self, prompt: str, sequence: Decoded, outputs: Iterator[Output]) -> None:
        for _ in pieces_of(sequence, outputs):
            pass
        row: dict[str, Any] = {"prompt": prompt, "text": sequence.text, "ids": sequence.ids}
        row["finish_reason"] = sequence.finish_reason
        if self.config.logprobs is not None:
            row["logprobs"] = [self._scored(token) for token in sequence.logprobs]
        if self.config.prompt_logprobs:
            row["prompt_logprobs"] = [self._scored(token) for token in sequence.prompt_logprobs]
        print(json.dumps(row), flush=True)

    def _scored(self, scored: TokenLogprobs | None) -> dict[str, Any] | None:
        if scored is None:  # the first token of a prompt has none
            return None
        return {**self._token(scored.token, scored.logprob), "top": [self._token(*other) for other in scored.top]}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.tokenizer.decode([token]) if token < self.tokenizer.vocab_size else ""
        return {"token": text, "id": token, "logprob": logprob}


def pieces_of(sequence: Decoded, outputs: Iterator[Output]) -> Iterator[str]:
    """The text of one sequence in pieces, up to its end, while others are decoded beside it."""
    yield sequence.text
    while sequence.finish_reason is None:
        for output in outputs:
            if output.sequence is sequence:
                yield output.text
                break


def print_pieces(prompt: str, pieces: Iterable[str]) -> None:
    """Print the text as it is generated. A terminal gets it without control characters, a file unchanged."""
    print(prompt, end="", flush=True)
    try:
        for piece in printable_pieces(pieces) if sys.stdout.isatty() else pieces:
            print(piece, end="", flush=True)
    finally:
        print()  # after Ctrl-C, too
