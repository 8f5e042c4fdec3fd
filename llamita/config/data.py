"""The [data] table: what text to learn from."""

from dataclasses import dataclass, field
from typing import Literal

from llamita.config.checks import require_not_negative

EXECUTION = {"execution": True}
"""Field metadata: this field may change between two starts of one run."""


@dataclass(frozen=True)
class DataConfig:
    """What text to learn from, and how it becomes windows of token ids.

    Identity is what the text and the tokenizer contain, as a hash, not where they lie: hence all the execution fields.
    """

    data: tuple[str, ...] = field(default=("stories",), metadata=EXECUTION)
    """Text files, folders of them, patterns such as `a/*.jsonl`, or one prepared folder; or `stories`, the built-in."""
    val_data: tuple[str, ...] = field(default=(), metadata=EXECUTION)
    """Files to validate on, named as in data, which is then all for training; none: the last tenth of the documents."""
    text_field: str = field(default="text", metadata=EXECUTION)
    """The field of .jsonl files that holds the text."""
    documents: Literal["auto", "file", "line"] = field(default="auto", metadata=EXECUTION)
    """What one document is. auto: a line of .jsonl, else what stands between `<|endoftext|>`, else the file."""
    max_documents: int = field(default=0, metadata=EXECUTION)
    """Read only the first so many documents of data; 0: all."""
    max_corpus_tokens: int = field(default=0, metadata=EXECUTION)
    """Keep only so many tokens, of training and validation in the proportion they have; 0: all."""
    tokenizer: str = field(default="bpe", metadata=EXECUTION)
    """`bpe` (trained on the data), `char`, `gpt2` (downloaded once), or a folder or file of a saved tokenizer."""
    pattern: Literal["gpt2", "cl100k", "llama3"] = field(default="gpt2", metadata=EXECUTION)
    """How a BPE tokenizer trained here splits text into pieces before it merges."""
    windows: Literal["auto", "stream", "document"] = "auto"
    """`stream`: the token stream cut at the context; `document`: starts at a document. auto: document for stories."""
    cache_dir: str = field(default="", metadata=EXECUTION)
    """Where prepared tokens are kept; empty: $LLAMITA_CACHE, else ~/.cache/llamita."""

    def __post_init__(self) -> None:
        require_not_negative(self, "max_documents", "max_corpus_tokens")
