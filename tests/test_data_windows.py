"""Windows cover every token that they should, with the targets and documents of a naive loop."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data_prepare import Utf8

from llamita.corpus import DocumentList
from llamita.data import IGNORED, Batch, BatchOrder, DocumentWindows, StreamWindows, TokenFile, prepare, random_batch
from llamita.errors import UserError

END = 256


@pytest.fixture(scope="module")
def token_file(tmp_path_factory) -> TokenFile:
    documents = ["abcde", "f", "ghijklmnopqrstu", "vw", "xyz" * 4, "0"]
    folder = tmp_path_factory.mktemp("cache")
    corpus = DocumentList(documents, "letters")
    return prepare(corpus, Utf8(), folder, validation_corpus=DocumentList(["!"], "val")).train


def naive_document_ids(ids: list[int]) -> list[int]:
    document, documents = 0, []
    for token in ids:
        documents.append(document)
        document += token == END
    return documents


@pytest.mark.parametrize("context", [1, 2, 3, 8, 10, 41])
@pytest.mark.parametrize("include_remainder", [False, True])
def test_stream_windows_are_slices_of_the_tokens(token_file, context, include_remainder):
    ids = token_file.ids.tolist()
    windows = StreamWindows(token_file, context, include_remainder=include_remainder)
    batch = windows.batch(np.arange(len(windows)))
    for window in range(len(windows)):
        inputs = ids[:-1][window * context : (window + 1) * context]
        targets = ids[window * context + 1 : (window + 1) * context + 1]
        assert len(inputs) == context or include_remainder
        padding = context - len(inputs)
        assert batch.ids[window].tolist()[: len(inputs)] == inputs
        assert batch.targets[window].tolist() == targets + [-100] * padding
        assert batch.document_ids[window].tolist() == naive_document_ids(inputs) + [-1] * padding
    assert batch.num_targets == (len(ids) - 1 if include_remainder else (len(ids) - 1) // context * context)
    assert {tensor.dtype for tensor in batch} == {torch.int64}
    assert all(tensor.shape == (len(windows), context) and tensor.is_contiguous() for tensor in batch)


def naive_document_windows(token_file: TokenFile, context: int, start: int = END) -> list[tuple[list[int], list[int]]]:
    """(inputs, targets) of each window: the first of every document, then those that continue, document by document."""
    first, continuing = [], []
    for begin, stop in zip(token_file.document_starts, token_file.document_ends, strict=True):
        targets = token_file.ids[begin:stop].tolist()
        inputs = [start, *targets[:-1]]
        cuts = [(inputs[at : at + context], targets[at : at + context]) for at in range(0, len(targets), context)]
        first.append(cuts[0])
        continuing += cuts[1:]
    return first + continuing


@pytest.mark.parametrize("context", [1, 2, 4, 6, 7, 8, 11, 16, 100])
def test_document_windows_are_documents_and_continue_those_that_are_longer(token_file, context):
    windows, expected = DocumentWindows(token_file, context), naive_document_windows(token_file, context)
    assert len(windows) == len(expected)
    batch = windows.batch(np.arange(len(windows)))
    for row, (inputs, targets) in enumerate(expected):
        padding = batch.ids.shape[1] - len(inputs)
        assert batch.ids[row].tolist() == inputs + [END] * padding
        assert batch.targets[row].tolist() == targets + [-100] * padding
        assert batch.document_ids[row].tolist() == [0] * len(inputs) + [-1] * padding
    assert {tensor.dtype for tensor in batch} == {torch.int64}


@pytest.mark.parametrize("context", [1, 3, 8, 16, 100])
def test_every_token_of_every_document_is_a_target_exactly_once(token_file, context, monkeypatch):
    monkeypatch.setattr("llamita.data.windows.CHUNK", 2)  # documents whose lengths are read at a time
    windows = DocumentWindows(token_file, context)
    seen = [windows.batch(np.array([number])) for number in range(len(windows))]
    targets = [token for batch in seen for token in batch.targets[batch.targets != IGNORED].tolist()]
    assert sorted(targets) == sorted(token_file.ids.tolist())
    assert windows.num_targets == len(targets) == sum(batch.num_targets for batch in seen)


def test_windows_of_documents_that_fit_have_the_numbers_of_their_documents(token_file):
    """So the order of training does not depend on whether the context could cut a document."""
    wide, narrow = DocumentWindows(token_file, 100), DocumentWindows(token_file, 13)
    assert len(wide) == 6
    assert len(narrow) == 7  # ghijklmnopqrstu and its end are 16 tokens
    for number in (0, 1, 3, 4, 5):
        for one, other in zip(wide.batch(np.array([number])), narrow.batch(np.array([number])), strict=True):
            assert torch.equal(one[:, :13], other)


@pytest.mark.parametrize("context", [1, 5, 8, 41])
@pytest.mark.parametrize("include_remainder", [False, True])
def test_stream_windows_know_how_many_targets_they_have(token_file, context, include_remainder):
    windows = StreamWindows(token_file, context, include_remainder=include_remainder)
    assert windows.num_targets == windows.batch(np.arange(len(windows))).num_targets


def test_documents_without_an_end_token_start_with_another_token(tmp_path):
    prepared = prepare(DocumentList(["abcdefgh", "ij", "k"], "x"), Utf8(end_id=None), tmp_path)
    windows = DocumentWindows(prepared.train, 5, start_id=10)
    batch = windows.batch(np.arange(len(windows)))
    assert [row[row != IGNORED].tolist() for row in batch.targets] == [list(b"abcde"), list(b"ij"), list(b"fgh")]
    assert batch.ids[:, 0].tolist() == [10, 10, ord("e")]


@pytest.mark.parametrize(("rows", "seq"), [([1], 8), ([0, 3], 8), ([2], 16), ([4, 5], 16)])
def test_document_batches_are_as_wide_as_their_longest(token_file, rows, seq):
    batch = DocumentWindows(token_file, 100).batch(np.array(rows))
    assert batch.ids.shape == (len(rows), seq)
    everything = DocumentWindows(token_file, 100).batch(np.arange(6))
    for trimmed, whole in zip(batch, everything, strict=True):
        assert torch.equal(trimmed, whole[rows, :seq])


@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 12), st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_ranks_and_micro_batches_together_see_the_batch_of_one_process(token_file, rows, ranks, micro, step):
    windows = StreamWindows(token_file, 4)
    batch_size = rows * ranks
    batch = windows.batch(BatchOrder(len(windows), batch_size, seed=1).indices(step))
    seen = [
        batch.slice(rank * rows, (rank + 1) * rows).slice(start, start + micro)
        for rank in range(ranks)
        for start in range(0, rows, micro)
    ]
    for whole, parts in zip(batch, zip(*seen, strict=True), strict=True):
        assert torch.equal(whole, torch.cat(parts))
    assert sum(part.num_targets for part in seen) == batch.num_targets


def test_a_batch_moves_to_a_device(token_file):
    batch = StreamWindows(token_file, 4).batch(np.array([0]))
    moved = batch.to("meta")
    assert isinstance(moved, Batch)
    assert moved.document_ids.device.type == "meta"


def test_text_shorter_than_a_window_is_refused_with_the_numbers_and_the_flag(token_file):
    tokens = len(token_file)
    assert len(StreamWindows(token_file, tokens - 1)) == 1
    with pytest.raises(
        UserError, match=rf"{tokens} tokens, but .* needs {tokens + 1}; set --max_seq_len to {tokens - 1}"
    ):
        StreamWindows(token_file, tokens)
    assert len(StreamWindows(token_file, 1000, include_remainder=True)) == 1


def test_a_single_token_makes_no_window(tmp_path):
    prepared = prepare(DocumentList(["a", "b"], "x"), Utf8(end_id=None), tmp_path)
    with pytest.raises(UserError, match="1 tokens, but one window needs 2; bring more text"):
        StreamWindows(prepared.train, 8, include_remainder=True)


def test_without_an_end_token_all_is_one_document(tmp_path):
    prepared = prepare(DocumentList(["abcdefgh", "ij", "k"], "x"), Utf8(end_id=None), tmp_path)
    assert StreamWindows(prepared.train, 9).batch(np.array([0])).document_ids.tolist() == [[0] * 9]
    with pytest.raises(UserError, match="need a tokenizer with an end token"):
        DocumentWindows(prepared.train, 8)


@pytest.mark.parametrize("indices", [[], [-1], [10**6], [0, 6]])
def test_window_numbers_out_of_range_are_refused(token_file, indices):
    for windows in (DocumentWindows(token_file, 100), StreamWindows(token_file, 8)):
        with pytest.raises(IndexError, match="window numbers must be"):
            windows.batch(np.array(indices))


def test_random_batches_are_crops_with_their_next_tokens():
    tokens = np.arange(20, dtype=np.uint16) * 3
    x, y = random_batch(tokens, 500, 7, "cpu", rng=np.random.default_rng(0))
    assert x.shape == y.shape == (500, 7)
    assert x.dtype == y.dtype == torch.int64
    assert torch.equal(y, x + 3)
    assert torch.equal(x, x[:, :1] + 3 * torch.arange(7))
    assert set(x[:, 0].tolist()) == {3 * start for start in range(13)}  # every place, the last one too


def test_random_batches_take_lists_and_memory_maps_and_seeds(token_file):
    first, again = (random_batch(token_file.ids, 4, 8, "cpu", rng=1) for _ in range(2))
    from_list = random_batch(token_file.ids.tolist(), 4, 8, "cpu", rng=1)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], from_list[1])
    assert random_batch([1, 2], 1, 1, "cpu")[0].tolist() == [[1]]


def test_random_batches_refuse_too_few_tokens():
    with pytest.raises(ValueError, match="9 tokens"):
        random_batch(list(range(8)), 1, 8, "cpu")
    with pytest.raises(ValueError, match="one row"):
        random_batch(np.zeros((20, 20)), 1, 8, "cpu")


def test_the_ignored_target_is_that_of_torch():
    assert torch.nn.CrossEntropyLoss().ignore_index == IGNORED
