"""Names and values of other trainers and of earlier versions, in llamita's own terms."""

from collections.abc import Mapping
from typing import Any

from llamita.errors import UserError

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
        "compile": "torch_compile compile_model use_compile",
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
        "checkpoint": "checkpoint_path ckpt ckpt_path model_path",
    }.items()
    for alias in aliases.split()
}
"""Names that users of other trainers bring along, as flags and as TOML keys -> llamita's own, with the same values."""

VALUES = {
    "precision": {
        value: name
        for name, values in {
            "fp32": "float32 torch.float32 32 32-true no",
            "bf16": "bfloat16 torch.bfloat16 bf16-mixed bf16-true",
            "fp16": "float16 torch.float16 half 16 16-mixed 16-true",
        }.items()
        for value in values.split()
    },
    "compile": {"true": "on", "false": "off"},
    "schedule": {"constant_with_warmup": "constant", "wsd": "constant"},
    "device": {"gpu": "cuda"},
}
"""llamita's name of a setting -> values of other trainers, in lower case -> llamita's own."""

SWITCHES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    **dict.fromkeys(("use_amp", "amp"), ({"precision": "auto"}, {"precision": "fp32"})),
    "bf16": ({"precision": "bf16"}, {}),
    "fp16": ({"precision": "fp16"}, {}),
    **dict.fromkeys(("use_cpu", "no_cuda"), ({"device": "cpu"}, {})),
    "decay_lr": ({}, {"schedule": "constant", "decay_share": 0.0}),
    "do_sample": ({}, {"temperature": 0.0}),
}
"""Switches of other trainers -> llamita's settings if they are on, and if they are off; none are its defaults."""

TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
"""Words for the value of a switch, in lower case."""

RETIRED = {
    "attention_block": "block sizes follow from the model's shape and the processor",
    "head_block": "block sizes follow from the model's shape and the processor",
}
"""Settings of earlier versions that are no longer needed, and why: in files and as flags they are ignored."""


def own_names(name: str, value: Any) -> Mapping[str, Any]:
    """A setting under any trainer's name -> the same in llamita's names and values; unknown names stay as they are.

    Raises `UserError` for a switch that is neither on nor off.
    """
    if name in SWITCHES:
        on, off = SWITCHES[name]
        truth = TRUTH.get(str(value).lower())
        if truth is None:
            raise UserError(f"{name} is {value!r}, but must be true or false")
        return on if truth else off
    own = ALIASES.get(name, name)
    known = isinstance(value, str | bool | int) and VALUES.get(own, {}).get(str(value).lower())
    return {own: known or value}


def note_on_retired(name: str, source: str) -> str:
    """What to tell a user who sets a retired setting."""
    return f"{source}: {name} is ignored, and can be removed: {RETIRED[name]}"
