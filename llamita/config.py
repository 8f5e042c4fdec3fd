"""Every setting of llamita: frozen dataclasses, one for each TOML table, read from files and flags, checked once.

Nothing here needs torch. [model] stands in `model_config.py`; how a file is read, and its mistakes are told, in
`config_file.py`. Field names are unique over all tables, so that on the command line each is a flag of its own
(`--hidden_size 256`), while a file keeps the tables:

    [model]
    hidden_size = 256

Fields are of two kinds. *Identity* fields make a run what it is: with another value it is another experiment, and a
resume with one is refused. *Execution* fields say how and where it is computed, and may change from one start to the
next. Every table is identity but `[run]`; `EXECUTION` marks the exceptions inside the others.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

from llamita.checks import require_not_negative, require_positive, require_share
from llamita.config_file import Schema, Tables, read_toml, unknown_name
from llamita.errors import UserError
from llamita.model_config import ModelConfig, derived_sizes
from llamita.presets import preset_path

MOST_THREADS = 1024
MOST_STEPS = 10**9  # more is a slip of the pen, and far from what the order of batches can count

EXECUTION = {"execution": True}
"""Field metadata: this field may change between two starts of one run."""

ALIASES = {
    alias: name
    for name, aliases in {
        "max_seq_len": "block_size context_length context_size seq_len seq_length sequence_length max_sequence_length "
        "max_seq_length n_ctx n_positions max_position_embeddings",
        "hidden_size": "n_embd n_embed d_model dim embed_dim embedding_dim model_dim",
        "intermediate_size": "d_ff ffn_dim ffn_hidden_size mlp_dim n_inner hidden_dim",
        "num_layers": "n_layer n_layers num_hidden_layers num_blocks n_blocks",
        "num_heads": "n_head n_heads num_attention_heads",
        "num_kv_heads": "n_kv_head n_kv_heads num_key_value_heads n_query_groups",
        "vocab_size": "n_vocab vocabulary_size",
        "rope_theta": "rope_base",
        "norm_eps": "rms_norm_eps layer_norm_eps layer_norm_epsilon",
        "tie_embeddings": "tie_word_embeddings tie_weights weight_tying",
        "dropout": "dropout_rate dropout_prob",
        "data": "data_file data_files data_path data_dir dataset train_data train_file train_files input_file",
        "tokenizer": "tokenizer_type tokenizer_name tokenizer_path",
        "cache_dir": "data_cache_dir",
        "learning_rate": "lr max_lr peak_lr",
        "min_learning_rate": "min_lr lr_min",
        "schedule": "lr_schedule lr_scheduler lr_scheduler_type",
        "warmup_steps": "warmup_iters num_warmup_steps lr_warmup_steps lr_warmup_iters",
        "weight_decay": "wd",
        "beta1": "adam_beta1",
        "beta2": "adam_beta2",
        "adam_eps": "adam_epsilon",
        "grad_clip": "max_grad_norm max_norm clip_grad_norm gradient_clip_val grad_norm_clip",
        "seed": "random_seed",
        "batch_size": "train_batch_size",
        "grad_accum_steps": "gradient_accumulation_steps grad_accumulation_steps gradient_accumulation grad_accum "
        "accumulate_grad_batches",
        "max_steps": "max_iters max_iterations num_iterations num_steps num_train_steps max_train_steps train_steps "
        "total_steps steps",
        "epochs": "num_epochs num_train_epochs max_epochs n_epochs",
        "name": "run_name",
        "output_dir": "checkpoint_dir out_dir save_dir",
        "precision": "dtype mixed_precision",
        "world_size": "num_processes nproc_per_node num_gpus",
        "threads": "num_threads",
        "micro_batch_size": "micro_batch",
        "log_every": "log_interval logging_steps log_steps",
        "eval_every": "eval_interval eval_steps val_interval",
        "save_every": "save_interval save_steps checkpoint_interval checkpoint_every",
        "keep_last": "save_total_limit keep_checkpoints",
        "sample_every": "sample_interval",
        "max_new_tokens": "max_tokens n_predict max_gen_len",
        "temperature": "temp",
        "repetition_penalty": "repeat_penalty rep_pen",
    }.items()
    for alias in aliases.split()
}
"""Names that users of other trainers bring along, as flags and as TOML keys -> llamita's own."""


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


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter, 2019), its schedule, and clipping."""

    learning_rate: float = 0.0
    """Peak learning rate, reached after the warmup; 0: 0.75 / hidden_size, at most 0.004."""
    min_learning_rate: float = 0.0
    """Where the schedule ends, at max_steps."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls after the warmup: along half a cosine, a line, or not at all but for the end (WSD)."""
    decay_share: float = 0.1
    """Of the constant schedule: the share of max_steps in which it falls in a line at the end; 0: it never falls."""
    warmup_steps: int = 100
    """Steps of linear increase at the start."""
    weight_decay: float = 0.1
    """Decoupled decay of matrices; gains are not decayed."""
    beta1: float = 0.9
    """Decay of the mean of gradients, per step."""
    beta2: float = 0.99
    """Decay of the mean of squared gradients, per step."""
    adam_eps: float = 1e-8
    """Added to the root of the mean square."""
    grad_clip: float = 1.0
    """Largest norm of all gradients together; 0: no clipping."""

    def __post_init__(self) -> None:
        require_positive(self, "adam_eps")
        require_not_negative(self, "learning_rate", "min_learning_rate", "warmup_steps", "weight_decay", "grad_clip")
        require_share(self, "beta1", "beta2")
        require_not_negative(self, "decay_share")
        if self.decay_share > 1:
            raise UserError(f"decay_share is {self.decay_share}, but must be at most 1: it is a share of max_steps")
        if 0 < self.learning_rate < self.min_learning_rate:
            raise UserError(
                f"min_learning_rate {self.min_learning_rate} is above learning_rate {self.learning_rate}: lower it"
            )


@dataclass(frozen=True)
class TrainingConfig:
    """How much is learned from, in which order. One update sees batch_size x grad_accum_steps sequences."""

    seed: int = 0
    """Key of every random draw: initial weights, data order, dropout, samples, and the built-in stories."""
    batch_size: int = 16
    """Sequences in one batch, over all processes together."""
    grad_accum_steps: int = 1
    """Batches whose gradients are summed for one update."""
    max_steps: int = 0
    """Updates in the whole run; 0: from epochs, or 1,400 where that is 0 too."""
    epochs: float = 0.0
    """Passes over the data, instead of max_steps."""

    def __post_init__(self) -> None:
        require_positive(self, "batch_size", "grad_accum_steps")
        require_not_negative(self, "seed", "max_steps", "epochs")
        if max(self.max_steps, self.epochs) > MOST_STEPS:
            raise UserError(f"a run has at most {MOST_STEPS:,} steps: lower --max_steps or --epochs")
        if self.max_steps and self.epochs:
            raise UserError(f"max_steps {self.max_steps} and epochs {self.epochs} both say how long: give one of them")

    @property
    def sequences_per_update(self) -> int:
        """Sequences that one optimizer step learns from."""
        return self.batch_size * self.grad_accum_steps


Interval = int | Literal["epoch"]
"""How often something is done: after that many steps, or whenever an epoch ends."""


@dataclass(frozen=True)
class ExecutionConfig:
    """How and where a run is computed, and what it says meanwhile. Every field may change from start to start."""

    name: str = ""
    """Name of the run in its directory's name; empty: after the data."""
    output_dir: str = ""
    """The run directory; empty: runs/<name>-<hash of the identity>."""
    extend: bool = False
    """Let a run be resumed with a larger max_steps."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Of the matrix products; weights stay fp32. auto: bf16, else fp16, where a device multiplies them natively."""
    kernels: Literal["auto", "native", "plain"] = "auto"
    """What computes between matrix products. native: llamita's compiled loops (bf16 on a CPU); plain: torch's own."""
    attention_block: int | Literal["auto"] = "auto"
    """Queries that attention's native kernel takes at once. auto: what is fastest on a short trial."""
    head_block: int | Literal["auto"] = "auto"
    """Tokens whose logits the head's native kernel makes at once. auto: what is fastest on a short trial."""
    compile: Literal["auto", "on", "off", "graphs"] = "auto"
    """Whether torch.compile joins the model's steps. auto: where it is faster, and the run is long enough to wait.
    graphs: as CUDA graphs, too, for small models on a GPU (not measured yet, so never chosen by auto)."""
    world_size: int = 0
    """Processes that train together on this machine, each with a GPU or its share of cores; 0: one, or torchrun's."""
    threads: int = 0
    """CPU threads of each process; 0: its share of those that may be used."""
    micro_batch_size: int | Literal["auto"] = 0
    """Sequences a process computes at once; 0: its share of batch_size. auto: what fits, and is fastest on trial."""
    log_every: Interval = 10
    """Steps between lines of metrics.jsonl, or `epoch`."""
    eval_every: Interval = 500
    """Steps between evaluations on the validation set, or `epoch`."""
    eval_sequences: int | Literal["auto"] = "auto"
    """Validation windows of each evaluation while training, evenly spread and always the same; 0: all. auto: as many
    as have 64,000 tokens, or all where the loss is compared with a floor, as that of the built-in stories."""
    save_every: Interval = 500
    """Steps between checkpoints, or `epoch`. The best evaluation is saved, too, and always kept."""
    keep_last: int = 2
    """Newest checkpoints that are kept, besides the best; 0: all. With 1, none is left to fall back on."""
    sample_every: Interval = 500
    """Steps between samples, or `epoch`; 0: none."""
    sample_count: int = 16
    """Samples drawn each time (for the built-in stories, the grammar judges all of them)."""

    def __post_init__(self) -> None:
        require_positive(self, "sample_count", *_numbers(self, "log_every", "eval_every", "save_every"))
        require_not_negative(self, "world_size", "threads", "keep_last")
        require_not_negative(self, *_numbers(self, "micro_batch_size", "eval_sequences"))
        require_positive(self, *_numbers(self, "attention_block", "head_block"))
        require_not_negative(self, *_numbers(self, "sample_every"))
        if self.threads > MOST_THREADS:
            raise UserError(f"threads is {self.threads:,}, but at most {MOST_THREADS:,} are started")


def _numbers(config: ExecutionConfig, *names: str) -> list[str]:
    """Those of these settings that are numbers, not `auto` or `epoch`."""
    return [name for name in names if not isinstance(getattr(config, name), str)]


@dataclass(frozen=True)
class GenerationConfig:
    """How text is drawn from a model. Not part of a run's configuration: each call has its own."""

    max_new_tokens: int = 200
    """The most tokens to write; it ends earlier at the end token."""
    temperature: float = 0.8
    """Below 1: likelier tokens are preferred; 0: always the likeliest."""
    top_k: int = 50
    """Draw from the k likeliest tokens only; 0: from all."""
    top_p: float = 1.0
    """Draw from the fewest tokens that together have this probability."""
    repetition_penalty: float = 1.0
    """Above 1: tokens that occurred before become less likely."""
    seed: int = 0
    """Key of the draws: the same seed writes the same text."""

    def __post_init__(self) -> None:
        require_positive(self, "max_new_tokens", "top_p", "repetition_penalty")
        require_not_negative(self, "temperature", "top_k", "seed")
        if self.top_p > 1:
            raise UserError(f"top_p is {self.top_p}, but a probability is at most 1")


@dataclass(frozen=True)
class RunConfig:
    """Everything that `train` needs to know: one table a field."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    run: ExecutionConfig = field(default_factory=ExecutionConfig)

    @classmethod
    def from_toml(cls, path: str | Path) -> "RunConfig":
        """The configuration in a TOML file; what it leaves out has its default. Raises `UserError`."""
        tables = read_toml(path)
        tables.pop("facts", None)  # what a run found out and wrote down; not configuration
        return cls.from_tables(tables, str(path))

    @classmethod
    def from_preset(cls, name: str) -> "RunConfig":
        """The configuration that `name` stands for (`llamita presets` lists them). Raises `UserError` for others."""
        return cls.from_toml(preset_path(name))

    @classmethod
    def from_tables(cls, tables: Mapping[str, Mapping[str, Any]], source: str = "configuration") -> "RunConfig":
        """From `{"model": {"hidden_size": 256}, ...}`. Raises `UserError` for names and types that do not exist."""
        return cls(**SCHEMA.construct(tables, source))

    def tables(self) -> dict[str, dict[str, Any]]:
        """The same as nested dictionaries, ready for TOML."""
        return dataclasses.asdict(self)

    def identity(self) -> dict[str, Any]:
        """The fields that make the run what it is, by flat name."""
        return {
            f.name: getattr(getattr(self, table.name), f.name)
            for table in fields(self)
            if table.name != "run"
            for f in fields(SCHEMA.classes[table.name])
            if not f.metadata.get("execution")
        }


SCHEMA = Schema(get_type_hints(RunConfig), ALIASES)
"""What a configuration file may say."""


def replace(config: RunConfig, **values: Any) -> RunConfig:
    """A copy of `config` with fields replaced by their flat names, e.g. `replace(config, hidden_size=256)`.

    Derived sizes (head_dim and the like) are not derived again: name them too, where they should change.
    """
    for table, cls in SCHEMA.classes.items():
        names = {f.name for f in fields(cls)}
        here = {name: values.pop(name) for name in names & values.keys()}
        config = dataclasses.replace(config, **{table: dataclasses.replace(getattr(config, table), **here)})
    if values:
        raise UserError(unknown_name("field", next(iter(values)), field_tables(), "configuration"))
    return config


def field_tables() -> dict[str, str]:
    """Flat field name -> the name of its table."""
    return SCHEMA.field_tables()


def settings_asked_for(path: str | Path) -> Tables:
    """The settings that a TOML file asks for, names and types checked. Raises `UserError`, naming file and key.

    The config.toml of a run has a value for every setting, also for those that nobody asked for. So that these follow
    when others are replaced (`--config RUN/config.toml --hidden_size 256`), a size or learning rate there that is just
    what would be derived from the rest counts as derived, and is left out: in place it would be derived again, to the
    same value. In a file that no run wrote, every value was asked for.
    """
    tables = read_toml(path)
    written_by_a_run = tables.pop("facts", None) is not None
    settings = SCHEMA.checked(tables, str(path))
    if not written_by_a_run:
        return settings
    model = settings.get("model", {})
    width = model.get("hidden_size", ModelConfig.hidden_size)
    rate = default_learning_rate(width, model.get("head_init", ModelConfig.head_init))
    sizes = derived_sizes(width, model.get("num_heads", 0), model.get("mlp", ModelConfig.mlp))
    derived = {**sizes, "learning_rate": rate}
    return {table: {k: v for k, v in rows.items() if v != derived.get(k)} for table, rows in settings.items()}


def default_learning_rate(hidden_size: int, head_init: str) -> float:
    """The peak learning rate where none is given: what was best for text, and for stories with heads that copy.

    Adam moves every weight by about as much, so what a matrix adds up grows with its width (Yang et al., 2022).
    """
    return min(0.012, 1.5 / max(hidden_size, 1)) if head_init == "copy" else min(0.004, 0.75 / max(hidden_size, 1))
