"""tokenizer.json as `tokenizers` reads it, and load_tokenizer."""

import json
import random
from functools import cache

import pytest
import tokenizers
from texts import development_text, nasty_strings, read_text

from llamita.errors import UserError
from llamita.tokenizer import END_OF_TEXT, BPETokenizer, CharTokenizer, load_tokenizer, train_bpe
from llamita.tokenizer.hf_json import GPT2_FASTER, GPT2_SHORTER, SPLIT_TEXTS, byte_alphabet
from llamita.tokenizer.patterns import PUBLISHED
from llamita.tokenizer.streaming import repair

PATTERNS = list(PUBLISHED)
TEXTS = [
    "", "Hello world, it's   a test", "IT'S we'LL\r\n\r\n  x \n", "  \n \n  ", "a\n  ", "a\n", "12345678 3.14",
    "!!\n\nx", "é日本語🙂", f"one{END_OF_TEXT}two{END_OF_TEXT}", "\x00\t\x7f",
    "don't  stop\n\n\n", "ünï  cödé \u00a0\u3000x", "<|endof", "<é  x>y",
]  # fmt: skip


@cache
def trained(pattern: str):
    documents = [repair(text).replace("<|", "") for text in nasty_strings(1_500, seed=31)]
    return train_bpe(documents + TEXTS, vocab_size=900, pattern=pattern)


def bpe(pattern: str, by_rank: bool = False) -> BPETokenizer:
    vocab, merges = trained(pattern)
    return BPETokenizer(vocab, None if by_rank else merges, [END_OF_TEXT, "<é  x>"], pattern)


def characters() -> CharTokenizer:
    return CharTokenizer("Helo wrd,it's  1234\r\n日本🙂<|>endoftxé")


def all_kinds():
    return [bpe(pattern, by_rank) for pattern in PATTERNS for by_rank in (False, True)] + [characters()]


def assert_same(ours, reference, texts) -> None:
    for text in texts:
        ids = ours.encode(text)
        assert reference.encode(text, add_special_tokens=False).ids == ids, repr(text)
        assert reference.decode(ids, skip_special_tokens=False) == ours.decode(ids), repr(text)


@pytest.mark.parametrize("number", range(7))
def test_tokenizers_reads_the_file_with_the_same_ids_and_text(number, tmp_path):
    ours = all_kinds()[number]
    reference = tokenizers.Tokenizer.from_file(str(ours.save(tmp_path)))
    assert reference.get_vocab_size() == ours.vocab_size
    assert reference.token_to_id(END_OF_TEXT) == ours.end_id
    assert_same(ours, reference, TEXTS)


@pytest.mark.parametrize("number", range(6))
def test_tokenizers_agrees_on_text_in_characters_that_every_unicode_knows(number, tmp_path):
    ours = all_kinds()[number]
    reference = tokenizers.Tokenizer.from_file(str(ours.save(tmp_path)))
    rng = random.Random(32)
    pool = ["a", "E", "s", "t", "'", " ", " ", "\n", "\r\n", "1", "23", "!", ".", "é", "日", "🙂", "\t", "ll"]
    pool.append(END_OF_TEXT)
    assert_same(ours, reference, ["".join(rng.choices(pool, k=rng.randint(0, 25))) for _ in range(3_000)])


def test_tokenizers_decodes_any_ids_to_the_same_text(tmp_path):
    rng = random.Random(33)
    for ours in (bpe("gpt2"), characters()):
        reference = tokenizers.Tokenizer.from_file(str(ours.save(tmp_path)))
        for _ in range(1_000):
            ids = [rng.randrange(ours.vocab_size) for _ in range(rng.randint(0, 8))]
            assert reference.decode(ids, skip_special_tokens=False) == ours.decode(ids), ids


def test_tokenizers_reads_special_tokens_with_gaps_between_their_ids(tmp_path):
    vocab, _ = trained("cl100k")
    ranks = {token: token_id for token_id, token in vocab.items()}
    ours = BPETokenizer.from_ranks(ranks, {END_OF_TEXT: 901, "<|later|>": 950}, "cl100k")
    assert_same(ours, tokenizers.Tokenizer.from_file(str(ours.save(tmp_path))), ["a<|later|>b" + END_OF_TEXT])


def test_gpt2_saved_by_llamita_is_gpt2_for_tokenizers(tmp_path):
    ours = load_tokenizer(development_text("gpt2"))
    reference = tokenizers.Tokenizer.from_file(str(ours.save(tmp_path)))
    assert_same(ours, reference, [*TEXTS, read_text("tinyshakespeare.txt")[:200_000]])
    assert load_tokenizer(tmp_path).fingerprint == ours.fingerprint


# --- loading ---


@pytest.mark.parametrize("number", range(7))
def test_a_saved_tokenizer_is_loaded_as_it_was(number, tmp_path):
    saved = all_kinds()[number]
    loaded = load_tokenizer(saved.save(tmp_path / "folder" / "mine.json"))
    assert loaded.fingerprint == saved.fingerprint
    assert loaded.vocab_size == saved.vocab_size
    assert loaded.special_tokens == saved.special_tokens
    for text in [*TEXTS, *nasty_strings(300, seed=34)]:
        assert loaded.encode(text) == saved.encode(text)
        assert loaded.encode(text, allow_special=False) == saved.encode(text, allow_special=False)
    assert loaded.byte_lengths.tolist() == saved.byte_lengths.tolist()


def test_different_tokenizers_have_different_fingerprints():
    assert len({tokenizer.fingerprint for tokenizer in all_kinds()}) == 7


def test_a_vocabulary_with_or_without_its_special_tokens_is_the_same_tokenizer():
    vocab, merges = train_bpe(["hi hi"], vocab_size=259, special_tokens=[END_OF_TEXT, "<é  x>"])
    without = {token_id: token for token_id, token in vocab.items() if token_id < 257}
    special = [END_OF_TEXT, "<é  x>"]
    assert BPETokenizer(vocab, merges, special).fingerprint == BPETokenizer(without, merges, special).fingerprint


def hf_trained(pattern: str) -> tokenizers.Tokenizer:
    """A byte-level BPE that `tokenizers` trained itself."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    pre = tokenizers.pre_tokenizers
    split = pre.Split(tokenizers.Regex(SPLIT_TEXTS[pattern]), behavior="isolated")
    made.pre_tokenizer = (
        pre.ByteLevel(add_prefix_space=False)
        if pattern == "gpt2"
        else pre.Sequence([split, pre.ByteLevel(add_prefix_space=False, use_regex=False)])
    )
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[END_OF_TEXT, "<pad>"],
        initial_alphabet=list(byte_alphabet().values()),
        show_progress=False,
    )
    made.train_from_iterator([repair(text) for text in nasty_strings(500, seed=35)], trainer)
    return made


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_file_that_tokenizers_trained_is_read_with_its_ids(pattern, tmp_path):
    reference = hf_trained(pattern)
    reference.save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path)
    assert ours.special_tokens == {END_OF_TEXT: 0, "<pad>": 1}
    assert_same(ours, reference, TEXTS)


def variants():
    """Name -> what to change in a file with the pattern of llama3; the ids change with it, or not, as they may."""
    steps = lambda c: c["pre_tokenizer"]["pretokenizers"]  # noqa: E731
    first, both = {"SpecialToken": {"id": "#", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    numbers = {"#": {"id": "#", "ids": [35], "tokens": ["#"]}}
    first_token = {"type": "TemplateProcessing", "single": [first, both], "pair": [both], "special_tokens": numbers}
    return {
        "merges as pairs": lambda c: c["model"].update(merges=[merge.split(" ") for merge in c["model"]["merges"]]),
        "no merges, but whole pieces": lambda c: c["model"].update(ignore_merges=True, merges=[]),
        "some merges, and whole pieces": lambda c: c["model"].update(
            ignore_merges=True, merges=c["model"]["merges"][:99]
        ),
        "matches kept by removing the rest": lambda c: steps(c)[0].update(behavior="Removed", invert=True),
        "steps in steps": lambda c: c.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [c["pre_tokenizer"]]}),
        "an empty normalizer": lambda c: c.update(normalizer={"type": "Sequence", "normalizers": []}),
        "a post-processor": lambda c: c.update(post_processor=first_token),
        "added tokens that aren't special": lambda c: c["added_tokens"].extend(
            [added("\t\t", 902), added("llama", 903)]
        ),
        "gpt2's pattern written out": lambda c: steps(c)[0]["pattern"].update(Regex=PUBLISHED["gpt2"]),
        "gpt2's pattern, shorter": lambda c: steps(c)[0]["pattern"].update(Regex=GPT2_SHORTER),
        "gpt2's pattern, faster": lambda c: steps(c)[0]["pattern"].update(Regex=GPT2_FASTER),
        "cl100k's pattern": lambda c: steps(c)[0]["pattern"].update(Regex=SPLIT_TEXTS["cl100k"]),
    }


@pytest.mark.parametrize("name", variants())
def test_every_spelling_of_a_tokenizer_file_gives_the_ids_of_tokenizers(name, tmp_path):
    path = changed(tmp_path, variants()[name])
    reference = tokenizers.Tokenizer.from_file(str(path))
    rng = random.Random(36)
    pool = ["a", "E", "s", "t", "'", " ", "  ", "\n", "\r\n", "1", "23", "!", ".", "é", "日", "llama", "\t", "ll"]
    pool += ["\t\t", "Hello", END_OF_TEXT, "<é  x>"]
    texts = [*TEXTS, *("".join(rng.choices(pool, k=rng.randint(0, 25))) for _ in range(2_000))]
    ours = load_tokenizer(path)
    for text in texts:
        assert ours.encode(text) == reference.encode(text, add_special_tokens=False).ids, repr(text)
    assert load_tokenizer(ours.save(tmp_path / "again")).encode(texts[-1]) == ours.encode(texts[-1])


def test_saving_replaces_a_file_atomically_and_leaves_no_other(tmp_path):
    (tmp_path / "tokenizer.json").write_text("old")
    path = bpe("gpt2").save(tmp_path)
    assert list(tmp_path.iterdir()) == [path] == [tmp_path / "tokenizer.json"]
    assert load_tokenizer(path).fingerprint == bpe("gpt2").fingerprint


# --- mistakes ---


def refused(path, line) -> None:
    with pytest.raises(UserError, match=line) as caught:
        load_tokenizer(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_tokenizer_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match="the name of the tokenizer is empty"):
        load_tokenizer("")
    refused(tmp_path / "no.json", "can't be read .No such file")
    refused(tmp_path, "no tokenizer.json there, nor encoder.json and vocab.bpe, nor vocab.json and merges.txt")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"model": {}}', '{"model": []}', "null", '"x"', "\ud800", "[" * 100_000]
)
def test_a_damaged_file_is_refused_in_one_line(content, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    refused(tmp_path / "tokenizer.json", "damaged or not a tokenizer")


@pytest.mark.parametrize("end", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused_in_one_line(end, tmp_path):
    path = bpe("gpt2").save(tmp_path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * end)])
    refused(path, "damaged or not a tokenizer")


def added(content: str, token_id: int):
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    return {"id": token_id, "content": content, **flags}


def changed(tmp_path, change):
    path = bpe("llama3").save(tmp_path)
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda c: c["model"].update(type="Unigram"), "model type 'Unigram' is not supported"),
        (lambda c: c["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex="x+"), r"pre-tokenizer .*x\+.*"),
        (lambda c: c.update(pre_tokenizer=None), "pre-tokenizer null is not known"),
        (lambda c: c.update(pre_tokenizer={"type": "Whitespace"}), "pre-tokenizer .*Whitespace.* is not known"),
        (lambda c: c.update(normalizer={"type": "NFC"}), "setting normalizer .*NFC.* is not supported"),
        (lambda c: c["model"].update(byte_fallback=True), "setting byte_fallback .true. is not supported"),
        (lambda c: c["model"].update(dropout=0.1), "setting dropout .0.1. is not supported"),
        (
            lambda c: c["model"].update(end_of_word_suffix="</w>"),
            "setting end_of_word_suffix .*</w>.* is not supported",
        ),
        (lambda c: c["added_tokens"][0].update(lstrip=True), "setting lstrip of '<|endoftext|>'"),
        (lambda c: c["added_tokens"][0].update(id=7), "the added token '<|endoftext|>' has two ids"),
        (lambda c: c["added_tokens"].append(added("of", 950)), "'<|endoftext|>' and 'of' overlap"),
        (lambda c: c["added_tokens"].append(added("|>zq", 950)), "'<|endoftext|>' and '|>zq' overlap"),
        (lambda c: c["pre_tokenizer"]["pretokenizers"].insert(0, {"type": "Digits"}), "pre-tokenizer .*Digits"),
        (lambda c: c["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True), "setting add_prefix_space"),
        (lambda c: c["pre_tokenizer"]["pretokenizers"][1].update(use_regex=True), "pre-tokenizer .* is not known"),
        (lambda c: c["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed"), "pre-tokenizer .*Removed"),
        (lambda c: c["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=PUBLISHED["cl100k"]), "is not known"),
        (
            lambda c: c["model"]["merges"].append("日 本"),
            "the token '日' has the character '日', which is no byte",
        ),
        (lambda c: c["model"]["vocab"].update({"▁the": 7000}), "not byte-level BPE: the token '▁the'"),
        (lambda c: c["model"]["merges"].append("q q"), "tokenizer.json: merge .* makes b'qq', which vocab lacks"),
        (lambda c: c["model"]["merges"].append("q q q"), "damaged or not a tokenizer"),
        (
            lambda c: c["model"].update(type="WordLevel", vocab={"two words": 0}),
            "not a WordLevel model that CharTokenizer wrote .it has the word 'two words'",
        ),
        (lambda c: c["model"].update(type="WordLevel", vocab={"b": 0, "a": 1}), "not a WordLevel model that"),
    ],
)
def test_what_llamita_cannot_do_is_refused_by_name(change, line, tmp_path):
    with pytest.raises(UserError, match=line.replace("|", r"\|")) as caught:
        load_tokenizer(changed(tmp_path, change))
    assert "\n" not in str(caught.value)


def test_a_byte_level_file_that_lacks_bytes_of_text_is_refused_when_it_is_loaded(tmp_path):
    """`tokenizers` trains such ones where it is not told of the alphabet, and then leaves those bytes out of texts."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.train_from_iterator(["a cat"], tokenizers.trainers.BpeTrainer())
    made.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=r"tokenizer\.json: 239 bytes, such as b'\\x00', have no token"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("byte", range(256))
def test_a_vocabulary_may_lack_only_the_bytes_that_never_occur_in_text(byte):
    """Of all of Unicode's characters, in the encoding of Python."""
    vocab = {token_id: bytes([token_id]) for token_id in range(256) if token_id != byte}
    assert BPETokenizer(vocab, []).missing_bytes() == ([byte] if byte in bytes_of_unicode() else [])


@cache
def bytes_of_unicode() -> set[int]:
    return {byte for code in range(0x110000) if not 0xD800 <= code < 0xE000 for byte in chr(code).encode()}


def test_a_path_that_a_tokenizer_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(UserError, match=r"taken/tokenizer\.json: can't be written .*; choose another folder"):
        characters().save(tmp_path / "taken" / "tokenizer.json")
