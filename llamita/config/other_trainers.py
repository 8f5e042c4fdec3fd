"""Where the settings, files and commands of other trainers are found here.

One table: docs/coming-from.md is written from it, and the command line answers unknown flags and commands from it.
Names that work unchanged are in `aliases.py`.
"""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import NamedTuple


class Row(NamedTuple):
    """A line of the page. `there`: names, separated by commas; `here`: Markdown."""

    there: str
    here: str
    note: str = ""


class Trainer(NamedTuple):
    """A section of the page."""

    name: str
    program: str
    settings: tuple[Row, ...]
    files: tuple[Row, ...] = ()
    commands: tuple[Row, ...] = ()
    remark: str = ""


SAME = "the same names"

NANOGPT = Trainer(
    "nanoGPT (Karpathy)",
    "`config/*.py`, or `train.py`",
    (
        Row("n_layer, n_head, n_embd", "`--num_layers`, `--num_heads`, `--hidden_size`"),
        Row("block_size", "`--max_seq_len`"),
        Row("dropout", "`--dropout`", "after the embedding and each layer, not on attention weights"),
        Row("bias", "`--bias`"),
        Row(
            "batch_size, gradient_accumulation_steps",
            "`--batch_size`, `--grad_accum_steps`",
            "nanoGPT divides the accumulation by the number of GPUs, too",
        ),
        Row("max_iters", "`--max_steps`"),
        Row("lr_decay_iters", "`--max_steps`", "the schedule always ends with the run"),
        Row("learning_rate, min_lr, warmup_iters", "`--learning_rate`, `--min_learning_rate`, `--warmup_steps`"),
        Row("decay_lr", "`--schedule constant --decay_share 0`", "for `decay_lr = False`; else the default"),
        Row("weight_decay, beta1, beta2, grad_clip", SAME, "beta2 is 0.95 there, 0.99 here by default"),
        Row("eval_interval, log_interval", "`--eval_every`, `--log_every`"),
        Row("eval_iters", "`--eval_sequences`", "sequences, always the same ones, instead of random batches"),
        Row("eval_only", "`llamita eval`"),
        Row("always_save_checkpoint", "`--save_every`", "the best checkpoint is always kept"),
        Row("init_from, resume", "the same command again", "it resumes; `init_from = 'gpt2*'` has no counterpart"),
        Row("out_dir", "`--output_dir`"),
        Row("dtype", "`--precision`", "`bfloat16`, `float16` and `float32` work as values, too"),
        Row("compile", "`--compile`", "auto, on, off, graphs; `True` and `False` work, too"),
        Row("device", "`--device`"),
        Row("backend, torchrun", "`--world_size`", "or `torchrun`"),
        Row("dataset", "`--data`", "a corpus by name, or the text itself; no `prepare.py` is needed"),
        Row(
            "wandb_log, wandb_project, wandb_run_name, use_wandb, report_to",
            "`--track`",
            "`--track wandb`, tensorboard or trackio; else nothing is sent anywhere: `metrics.jsonl` has it all",
        ),
    ),
    (
        Row(
            "`data/<name>/train.bin`, `val.bin`",
            "the same format (uint16 ids), in the cache folder that `llamita prepare` prints, with a manifest",
        ),
        Row("`data/<name>/meta.pkl`", "`tokenizer.json` of the run"),
        Row("`out/ckpt.pt`", "`step_00000500/`: safetensors, nothing that has to be unpickled"),
    ),
    (
        Row("python data/shakespeare_char/prepare.py", "llamita prepare --data shakespeare --tokenizer char"),
        Row(
            "python train.py config/train_shakespeare_char.py",
            "llamita train --data shakespeare --tokenizer char --n_layer=6 --n_head=6 --n_embd=384 --block_size=256 "
            "--batch_size=64 --dropout=0.2 --max_iters=5000",
        ),
        Row(
            "python train.py --compile=False --dtype=float32 --device=cpu",
            "llamita train --data shakespeare --compile=False --dtype=float32 --device=cpu",
        ),
        Row(
            "python sample.py",
            'llamita eval runs/mine --generate "ROMEO:" --sample_count 8',
        ),
    ),
    "The architecture of GPT-2 (LayerNorm, learned positions, GELU, biases) is `--preset gpt2-baseline`, or "
    "`--norm layer`, `--position learned`, `--mlp gelu`, `--bias`. The default is a Llama: RMSNorm, RoPE, SwiGLU.",
)

LITGPT = Trainer(
    "litgpt (Lightning AI)",
    "`litgpt pretrain`, `litgpt finetune`",
    (
        Row("model_name", "`--preset`", "the presets are small models, and Meta's"),
        Row("n_layer, n_head, n_embd", "`--num_layers`, `--num_heads`, `--hidden_size`", "under `model_config`"),
        Row("n_query_groups", "`--num_kv_heads`", "under `model_config`"),
        Row("intermediate_size", "`--intermediate_size`"),
        Row("block_size, max_seq_length", "`--max_seq_len`"),
        Row("padded_vocab_size", "`--vocab_size`", "not padded here"),
        Row("global_batch_size", "`--batch_size`", "sequences per update"),
        Row("micro_batch_size", "`--micro_batch_size`"),
        Row("max_steps, epochs", "`--max_steps`, `--epochs`", "one of them"),
        Row(
            "max_tokens",
            "`--max_steps`",
            "tokens / (`batch_size` x `max_seq_len`); `--max_tokens` here is a flag of `llamita generate`",
        ),
        Row("lr_warmup_steps, min_lr, max_norm", "`--warmup_steps`, `--min_learning_rate`, `--grad_clip`"),
        Row("tie_embeddings", "`--tie_embeddings`", "on by default here"),
        Row("lr, weight_decay", "`--learning_rate`, `--weight_decay`"),
        Row("betas", "`--beta1`, `--beta2`"),
        Row("log_interval, save_interval", "`--log_every`, `--save_every`", "under `train`"),
        Row("interval", "`--eval_every`", "under `eval`"),
        Row("max_iters", "`--eval_sequences`", "under `eval`; sequences here, batches there"),
        Row("precision", "`--precision`", "`bf16-mixed`, `16-mixed` and `32-true` work; weights are always fp32"),
        Row("devices, num_nodes", "`--world_size`", "or `torchrun`"),
        Row("train_data_path, val_data_path", "`--data`, `--val_data`"),
        Row("tokenizer_dir", "`--tokenizer`", "the folder of a `tokenizer.json`"),
        Row("out_dir", "`--output_dir`"),
        Row("resume", "the same command again"),
        Row("seed", "`--seed`"),
    ),
    (
        Row("`lit_model.pth`", "`model.safetensors`, with Hugging Face's names"),
        Row("`model_config.yaml`, `hyperparameters.yaml`", "`config.toml`"),
        Row("`metrics.csv` of the CSV logger", "`metrics.jsonl`"),
    ),
    (
        Row("litgpt pretrain pythia-14m --data TextFiles", "llamita train --preset tinystories-5m --data my_texts"),
        Row("litgpt generate", 'llamita generate runs/mine "Once upon a time"'),
        Row("litgpt evaluate", "llamita eval runs/mine"),
    ),
)

LLAMA2_C = Trainer(
    "llama2.c (Karpathy)",
    "`train.py`",
    (
        Row("dim, n_layers, n_heads, n_kv_heads", "`--hidden_size`, `--num_layers`, `--num_heads`, `--num_kv_heads`"),
        Row("multiple_of", "`--intermediate_size`", "give the width itself"),
        Row("max_seq_len", "`--max_seq_len`"),
        Row("vocab_source", "`--tokenizer`", "`custom` is `bpe`; `llama2` is a saved tokenizer here"),
        Row("vocab_size", "`--vocab_size`"),
        Row("batch_size, gradient_accumulation_steps", "`--batch_size`, `--grad_accum_steps`"),
        Row(
            "max_iters, warmup_iters, learning_rate",
            "`--max_steps`, `--warmup_steps`, `--learning_rate`",
            "the cosine ends at 0 in both",
        ),
        Row("weight_decay, beta1, beta2, grad_clip, dropout", SAME),
        Row("eval_interval, log_interval", "`--eval_every`, `--log_every`"),
        Row("eval_iters", "`--eval_sequences`"),
        Row("out_dir, dtype, device", "`--output_dir`, `--precision`, `--device`"),
    ),
    (
        Row("`data/tok4096.model` (sentencepiece)", "`tokenizer.json` (byte-level BPE)"),
        Row("`out/ckpt.pt`, `model.bin`", "`step_00000500/model.safetensors`"),
        Row("stories15M (6 layers, 288 wide)", "similar: `--preset tinystories-15m`"),
    ),
    (
        Row("python tinystories.py pretokenize", "llamita prepare --data tinystories --vocab_size 4096"),
        Row(
            "python train.py --dim=288 --n_layers=6 --n_heads=6 --compile=False",
            "llamita train --data tinystories --dim=288 --n_layers=6 --n_heads=6 --compile=False",
        ),
        Row(
            "./run model.bin -t 0.8 -p 0.9 -n 256 -i Once",
            'llamita generate runs/mine "Once" --temperature 0.8 --top_p 0.9 --top_k 0 --max_new_tokens 256',
        ),
    ),
    "Its rotary embedding rotates adjacent elements of a head; Hugging Face's and llamita's rotate elements half a "
    "head apart. Weights of `q` and `k` have to be permuted, not only renamed.",
)

TRANSFORMERS = Trainer(
    "transformers (Hugging Face)",
    "`LlamaConfig`, `TrainingArguments`, `generate`",
    (
        Row("vocab_size, hidden_size, intermediate_size, rope_theta, head_dim", SAME),
        Row("num_hidden_layers", "`--num_layers`"),
        Row("num_attention_heads, num_key_value_heads", "`--num_heads`, `--num_kv_heads`"),
        Row("max_position_embeddings", "`--max_seq_len`"),
        Row("rms_norm_eps", "`--norm_eps`"),
        Row("tie_word_embeddings", "`--tie_embeddings`"),
        Row("attention_dropout, hidden_dropout_prob", "`--dropout`"),
        Row("per_device_train_batch_size", "`--micro_batch_size`", "`--batch_size` is over all processes"),
        Row("gradient_accumulation_steps", "`--grad_accum_steps`"),
        Row("gradient_checkpointing", "`--micro_batch_size`", "smaller ones take less memory"),
        Row("learning_rate, weight_decay, warmup_steps", SAME),
        Row("warmup_ratio", "`--warmup_steps`", "steps, not a fraction"),
        Row(
            "adam_beta1, adam_beta2, adam_epsilon, max_grad_norm",
            "`--beta1`, `--beta2`, `--adam_eps`, `--grad_clip`",
        ),
        Row("lr_scheduler_type", "`--schedule`"),
        Row("num_train_epochs, max_steps", "`--epochs`, `--max_steps`"),
        Row("logging_steps, eval_steps, save_steps", "`--log_every`, `--eval_every`, `--save_every`"),
        Row("save_total_limit", "`--keep_last`"),
        Row("bf16, fp16, use_amp", "`--precision`"),
        Row("use_cpu, no_cuda", "`--device cpu`"),
        Row("torch_compile", "`--compile`"),
        Row("output_dir", "`--output_dir`"),
        Row("resume_from_checkpoint, overwrite_output_dir", "the same command again", "it resumes"),
        Row("data_seed", "`--seed`", "one seed for both"),
        Row("max_new_tokens, temperature, top_k, top_p, repetition_penalty", "the same names, of `llamita generate`"),
        Row("do_sample", "`--temperature 0`", "for `do_sample=False`; else the default"),
        Row("max_length, min_length, num_beams", "`--max_new_tokens`", "there is no beam search"),
    ),
    (
        Row("`model.safetensors`", "the same names and layout of weights; a tied head is left out in both"),
        Row("`config.json`", "`config.toml`"),
        Row("`tokenizer.json`", "the same file: `--tokenizer FOLDER` takes it, `tokenizers` reads ours"),
        Row("`optimizer.pt`, `scheduler.pt`, `rng_state.pth`", "`optimizer.safetensors`; there is no other state"),
        Row("`trainer_state.json`", "`metrics.jsonl`"),
    ),
    (
        Row(
            "python run_clm.py --train_file my.txt --num_train_epochs 3 --bf16",
            "llamita train --train_file my.txt --num_train_epochs 3 --bf16",
        ),
    ),
    "The weights of a run load into `LlamaForCausalLM` without any renaming: `tests/test_model.py` does that.",
)

SMALL = Trainer(
    "Small trainers from courses and tutorials",
    "scripts with `argparse`",
    (
        Row("d_model, d_ff", "`--hidden_size`, `--intermediate_size`"),
        Row("context_length, rope_theta", "`--max_seq_len`, `--rope_theta`"),
        Row("max_lr, min_lr, warmup_iters", "`--learning_rate`, `--min_learning_rate`, `--warmup_steps`"),
        Row("cosine_iters, cosine_cycle_iters", "`--max_steps`", "the schedule always ends with the run"),
        Row("use_amp", "`--precision`", "`--use_amp` is `auto`, `--use_amp False` fp32"),
        Row("checkpoint_dir, checkpoint_interval", "`--output_dir`, `--save_every`"),
        Row("data_file, tokenizer_type", "`--data`, `--tokenizer`"),
        Row(
            "vocab_path, vocab_filepath, merges_path, merges_filepath, tokenizer_file",
            "`tokenizer.json` of the run",
            "leave it out; `train --tokenizer FOLDER` takes a saved one",
        ),
        Row("special_tokens", "the end-of-text marker, always", "it separates documents"),
        Row("num_samples, n_samples", "`llamita generate RUN TEXT --num_samples N`"),
        Row("start", "`llamita generate RUN TEXT`"),
        Row("resume_from", "the same command again", "it resumes"),
    ),
    (
        Row("`train.npy`, `valid.npy`", "token files in the folder that `llamita prepare` prints"),
        Row("`vocab.json`, `merges.txt`", "`tokenizer.json`"),
        Row("`checkpoint.pt`", "`step_00000500/`: `model.safetensors`, `optimizer.safetensors`"),
    ),
    (
        Row("python prepare_data.py", "llamita prepare --data input.txt --vocab_size 10000"),
        Row("python prepare_tinystories.py", "llamita prepare --data tinystories --vocab_size 10k"),
        Row(
            "python prepare_owt.py",
            "llamita prepare --data openwebtext --vocab_size 32k",
            "24 GB; with `--max_corpus_tokens 50M`, 0.1 GB",
        ),
        Row("python train_bpe.py", "llamita tokenizer train --data input.txt --vocab_size 10k --output_dir my_bpe"),
        Row(
            "python train.py",
            "llamita train --data_file input.txt --epochs 20 --batch_size 32 --hidden_size 256 --num_layers 6 "
            "--num_heads 8 --learning_rate 3e-4 --block_size 128 --dropout 0.1 --checkpoint_dir checkpoints",
        ),
        Row("python train_quick.py", "llamita train --data input.txt --hidden_size 64 --max_steps 200"),
        Row("python train_tinystories.py", "llamita train --preset tinystories-17m"),
        Row("python train_owt.py", "llamita train --preset owt-sample", "or `owt-125m`, on all of it"),
        Row("torchrun --nproc_per_node=2 train.py", "llamita train --data input.txt --world_size 2"),
        Row("python ablation_no_rmsnorm.py", "llamita train --data input.txt --norm none"),
        Row("python ablation_post_norm.py", "llamita train --data input.txt --norm_position post"),
        Row("python ablation_nope.py", "llamita train --data input.txt --position none"),
        Row("python ablation_silu.py", "llamita train --data input.txt --mlp gelu", "no gate; GELU instead of SiLU"),
        Row("python ablation_lr.py", "llamita train --data input.txt --learning_rate 1e-3", "a run per value"),
        Row("python ablation_batch_size.py", "llamita train --data input.txt --batch_size 64", "a run per value"),
        Row("python ablation_*.py", "llamita train --data input.txt --seed 1", "any other setting likewise"),
        Row("python run_generation.py", 'llamita generate runs/mine "Once upon a time"'),
        Row(
            "python llama_generate.py",
            "llamita generate --checkpoint runs/mine --hidden_size 256 --num_layers 6 --num_heads 8 --max_seq_len 128 "
            '--prompt "Once upon a time" --max_tokens 100 --temperature 0.8 --top_p 0.9',
            "sizes are those of the run: given, they are checked",
        ),
        Row("python evaluate.py", "llamita eval runs/mine"),
        Row("python plot_loss.py", "llamita eval runs/mine --plot"),
    ),
)

TRAINERS = NANOGPT, LITGPT, LLAMA2_C, TRANSFORMERS, SMALL
"""The sections of the page, in their order."""


def names(row: Row) -> list[str]:
    """The names in the left column of a row of settings."""
    return row.there.split(", ")


def setting_hint(name: str) -> tuple[str, str]:
    """(what other trainers' setting `name` is here, a note), such as ("--max_steps", ""); empty if none has it."""
    rows = (row for trainer in TRAINERS for row in trainer.settings if name in names(row) and row.here != SAME)
    for row in rows:
        flags = _plain(row.here).split(", ")
        here = flags[names(row).index(name)] if len(flags) == len(names(row)) else _plain(row.here)
        return here, _plain(row.note)
    return "", ""


def command_hint(script: str) -> str:
    """The command line here for a script such as `prepare_data` or `ablation_lr.py`; empty for unknown ones."""
    command = PurePath(script).name.removesuffix(".py").replace("-", "_")
    return next((line for name, line in _scripts() if fnmatchcase(command, name)), "")


def _scripts() -> Iterator[tuple[str, str]]:
    """(name of a script without .py, command line here)."""
    for trainer in reversed(TRAINERS):
        for row in trainer.commands:
            for script in re.findall(r"([\w*]+)\.py", row.there):
                yield script, row.here


def _plain(markdown: str) -> str:
    return markdown.replace("`", "")
