"""Tokenizers from elsewhere: unused ids, and none that ends a document, stop neither training nor generation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import TINY, command, evaluation_rows, flags
from runs import cache as cache
from runs import text as text

from llamita.config import GenerationConfig, ModelConfig
from llamita.errors import UserError
from llamita.generate import Sampler, assigned_ids, generate, generate_many, prompt_ids, stream
from llamita.model import Llama
from llamita.tokenizer import END_OF_TEXT, BPETokenizer, CharTokenizer, load_tokenizer
from llamita.train import load_run

BYTES = {token: bytes([token]) for token in range(256)}
HOLES = [*range(257, 300), *range(301, 400)]


def with_holes(plain: bool = False) -> BPETokenizer:
    """Bytes, one merge with id 300, and the end token with id 400; 142 ids between are unused."""
    return BPETokenizer(
        {**BYTES, 256: b"th", 300: b"he"}, [(b"t", b"h"), (b"h", b"e")], {END_OF_TEXT: 400}, plain=plain
    )


def without_end(plain: bool = False) -> BPETokenizer:
    return BPETokenizer({**BYTES, 256: b"th"}, [(b"t", b"h")], plain=plain)


def model_of(vocab_size: int, **settings) -> Llama:
    shape = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "max_seq_len": 16}
    return Llama(ModelConfig(vocab_size=vocab_size, **{**shape, **settings}), seed=0).eval()


def favouring(token: int, vocab_size: int) -> Llama:
    """A model to which one token is by far the likeliest, whatever came before."""
    model = model_of(vocab_size, tie_embeddings=False, norm="none")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.model.embed_tokens.weight[:, 0] = 1.0
        model.lm_head.weight[token, 0] = 100.0
    return model


@pytest.mark.parametrize("plain", [True, False])
def test_the_ids_that_no_token_has_are_known_and_decode_to_nothing(plain):
    tokenizer = with_holes(plain)
    assert tokenizer.vocab_size == 401
    assert np.flatnonzero(~tokenizer.assigned).tolist() == HOLES
    assert tokenizer.decode([97, 260, 98, 399]) == "ab"
    assert tokenizer.decode(np.array([97, 260, 98] * 1000)) == "ab" * 1000
    assert tokenizer.token_bytes(260) == b""
    assert tokenizer.byte_lengths[HOLES].sum() == 0
    with pytest.raises(UserError, match="token id 401 is not in the vocabulary"):
        tokenizer.decode([401])


def test_every_id_of_a_tokenizer_without_holes_is_assigned():
    for tokenizer in (CharTokenizer("abc"), without_end()):
        assert tokenizer.assigned.tolist() == [True] * tokenizer.vocab_size
        assert assigned_ids(tokenizer, tokenizer.vocab_size) is None


def test_unused_ids_survive_a_file(tmp_path):
    saved = with_holes()
    saved.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert (loaded.vocab_size, loaded.end_id, loaded.fingerprint) == (401, 400, saved.fingerprint)
    assert np.array_equal(loaded.assigned, saved.assigned)


@pytest.mark.parametrize("bad", [-1, 10**9])
def test_an_id_out_of_bounds_in_a_file_is_refused_in_one_line(tmp_path, bad):
    content = with_holes().to_json()
    content["model"]["vocab"]["th"] = bad
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"a token has the id {bad}; ids must be from 0 to"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"temperature": 5.0, "top_k": 0}, {"top_k": 390}, {"repetition_penalty": 9.0}]
)
def test_unused_ids_are_never_sampled(options):
    tokenizer = with_holes()
    config = GenerationConfig(**options)
    assigned = assigned_ids(tokenizer, 401)
    logits = torch.randn(64, 401, generator=torch.Generator().manual_seed(0))
    logits[:, HOLES] += 20.0
    samplers = [Sampler([400], 401, config, index=i, end_id=400, assigned=assigned) for i in range(64)]
    sampled = {sampler(row) for _ in range(20) for sampler, row in zip(samplers, logits, strict=True)}
    assert not sampled & set(HOLES)
    assert len(sampled) > 10


def test_generation_does_not_stop_at_an_unused_id():
    tokenizer, options = with_holes(), {"max_new_tokens": 30, "temperature": 0.0}
    model = favouring(360, 401)
    written = generate(model, tokenizer, "a", **options)
    assert len(written.encode()) == 30
    config = GenerationConfig(**options)
    assert "".join(stream(model, tokenizer, "a", config)) == written
    assert generate_many(model, tokenizer, ["a"], config) == [written]


def test_a_model_whose_vocabulary_is_padded_samples_no_padding():
    """Vocabularies are often rounded up, as GPT-2's 50,257 to 50,304."""
    assert len(generate(favouring(300, 320), without_end(), "a", max_new_tokens=9, temperature=0.0).encode()) == 9


def test_a_document_starts_after_the_end_token_or_else_a_newline():
    assert prompt_ids(with_holes(), "a") == [400, 97]
    assert prompt_ids(without_end(), "a") == [10, 97]
    assert prompt_ids(without_end(), "") == [10]
    assert without_end().start_id == 10
    assert len(generate(model_of(257), without_end(), "", max_new_tokens=5).encode()) >= 5


@pytest.mark.parametrize("windows", ["stream", "document"])
@pytest.mark.parametrize("make", [with_holes, without_end])
def test_training_sampling_evaluation_and_generation_work_with_it(make, windows, text, tmp_path, capsys):
    make().save(tmp_path / "tokenizer")
    options = {**TINY, "tokenizer": "tokenizer", "windows": windows, "sample_every": 6, "max_seq_len": 32}
    assert command("train", *flags(data=text, output_dir="run", **options)) == 0
    out = capsys.readouterr().out
    assert ("warning: the tokenizer has no <|endoftext|>" in out) == (make is without_end)
    samples = [json.loads(line) for line in Path("run", "samples.jsonl").read_text().splitlines()]
    assert [row["step"] for row in samples] == [0, 6, 12]
    assert np.isfinite([row["val_loss"] for row in evaluation_rows(Path("run"))]).all()
    assert command("eval", "--checkpoint", "run", "--generate", "--sample_count", 2) == 0
    capsys.readouterr()
    assert command("generate", "", "--checkpoint", "run", "--max_new_tokens", 20) == 0
    assert command("generate", "the llama", "--checkpoint", "run", "--max_new_tokens", 20) == 0
    assert capsys.readouterr().out.count("the llama") >= 1
    model, tokenizer, _ = load_run("run")
    assert model.config.vocab_size == tokenizer.vocab_size


# --- a marker in the text ---


@pytest.mark.parametrize("plain", [True, False])
def test_a_document_that_quotes_the_end_token_does_not_end_there(plain):
    tokenizer = BPETokenizer(BYTES, [], [END_OF_TEXT, "<|user|>"], plain=plain)
    text = f"<|user|>say {END_OF_TEXT}!"
    for cuts in ([text], list(text), [text[:20], text[20:]]):
        ids = np.concatenate(list(tokenizer.encode_document(cuts))).tolist()
        assert ids == [tokenizer.special_tokens["<|user|>"], *f"say {END_OF_TEXT}!".encode()]
        assert tokenizer.end_id in np.concatenate(list(tokenizer.encode_blocks(cuts)))
    characters = CharTokenizer.train([text], allow_special=False)
    for cuts in ([text], list(text)):
        ids = np.concatenate(list(characters.encode_document(cuts))).tolist()
        assert ids == [characters.characters.index(character) for character in text]
    assert "<" not in CharTokenizer.train([f"a{END_OF_TEXT}b"]).characters
