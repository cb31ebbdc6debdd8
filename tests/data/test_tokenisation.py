"""What is read of long texts."""

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer, processors

from counterpoise.data.batching import TokenDataset
from counterpoise.data.token_store import load_tokenizer, tokenise
from counterpoise.data.tokenisation import Tokenisation
from refusals import user_error

LENGTHS = [0, 1, 3, 6, 7, 8, 12, 13, 29, 30, 31, 40]
TEXTS = [" ".join(f"word{i}" for i in range(length)) for length in LENGTHS]


@pytest.fixture
def tokenizer(tiny_encoder) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_encoder / "tokenizer.json"))


def words(tokenizer: Tokenizer, ids) -> list[str]:
    return [tokenizer.id_to_token(number) for number in ids]


def read(tokenizer: Tokenizer, texts=TEXTS, **settings) -> list:
    tokenisation = Tokenisation(**{"max_length": 8} | settings)
    tokenisation.prepare(tokenizer)
    return list(tokenisation.encode(tokenizer, texts))


@pytest.mark.parametrize("mode", ["truncate", "head_tail", "chunk"])
def test_short_texts_are_read_whole_and_lengths_are_those_of_whole_texts(tokenizer, mode):
    for length, text, found in zip(LENGTHS, TEXTS, read(tokenizer, long_texts=mode), strict=True):
        assert found.full_length == length + 2
        if length <= 6:
            assert words(tokenizer, found.ids) == ["[CLS]", *text.split(), "[SEP]"]


@pytest.mark.parametrize("mode", ["truncate", "head_tail", "chunk"])
def test_token_ids_are_those_of_encode(tokenizer, mode):
    found = [tokens.ids for tokens in read(tokenizer, long_texts=mode)]
    assert list(Tokenisation(8, mode).token_ids(tokenizer, TEXTS)) == found


def test_truncation_keeps_the_first_tokens(tokenizer):
    assert words(tokenizer, read(tokenizer)[-1].ids) == ["[CLS]", *TEXTS[-1].split()[:6], "[SEP]"]


@pytest.mark.parametrize("max_length", [3, 8, 12, 40])
def test_head_tail_keeps_a_quarter_from_the_start_and_the_rest_from_the_end(tokenizer, max_length):
    width = max_length - 2
    head = round(width / 4)
    found = read(tokenizer, max_length=max_length, long_texts="head_tail")[-1]
    expected = TEXTS[-1].split()
    assert words(tokenizer, found.ids) == ["[CLS]", *expected[:head], *expected[40 - width + head :], "[SEP]"]


def test_head_tail_of_512_tokens_is_that_of_the_paper(tokenizer):
    text = " ".join(["word1"] * 128 + ["word2"] * 1000 + ["word3"] * 382)
    ids = words(tokenizer, read(tokenizer, [text], max_length=512, long_texts="head_tail")[0].ids)
    assert ids == ["[CLS]", *["word1"] * 128, *["word3"] * 382, "[SEP]"]


@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.9])
def test_chunks_are_full_overlap_and_cover_the_text(tokenizer, overlap):
    for length, text, found in zip(
        LENGTHS, TEXTS, read(tokenizer, long_texts="chunk", chunk_overlap=overlap, max_chunks=100), strict=True
    ):
        if length <= 6:
            continue
        assert len(found.ids) % 8 == 0
        covered, expected = 0, text.split()
        for start in range(0, len(found.ids), 8):
            first, *content, last = words(tokenizer, found.ids[start : start + 8])
            assert (first, last) == ("[CLS]", "[SEP]")
            place = expected.index(content[0])
            assert content == expected[place : place + 6]
            assert start == 0 or place <= covered - round(overlap * 6)
            covered = place + 6
        assert covered == length


@pytest.mark.parametrize("max_chunks", [1, 2, 5])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5])
def test_the_readable_length_is_that_of_the_longest_text_without_a_loss(tokenizer, max_chunks, overlap):
    settings = {"long_texts": "chunk", "chunk_overlap": overlap, "max_chunks": max_chunks}
    readable = Tokenisation(8, **settings).readable_length(tokenizer)
    for length, text, found in zip(LENGTHS, TEXTS, read(tokenizer, **settings), strict=True):
        assert len(found.ids) <= max_chunks * 8
        lost = set(text.split()) - set(words(tokenizer, found.ids))
        assert bool(lost) == (length + 2 > readable)


def test_tokenizers_without_special_tokens_are_read_in_chunks(tokenizer):
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    found = read(tokenizer, [TEXTS[-1]], long_texts="chunk", chunk_overlap=0)[0]
    assert words(tokenizer, found.ids) == TEXTS[-1].split()


def test_special_tokens_within_a_text_are_content(tokenizer):
    found = read(tokenizer, ["[CLS] [SEP] " * 10], long_texts="chunk", chunk_overlap=0)[0]
    assert len(found.ids) == 4 * 8
    assert found.full_length == 22


def test_each_setting_has_its_own_token_store(tiny_encoder):
    tokenizer, column = load_tokenizer(str(tiny_encoder)), pa.chunked_array([pa.array(TEXTS, pa.large_string())])
    settings = [
        Tokenisation(8),
        Tokenisation(8, "head_tail"),
        Tokenisation(8, "chunk"),
        Tokenisation(8, "chunk", 0.5),
        Tokenisation(8, "chunk", max_chunks=2),
        Tokenisation(9, "chunk"),
    ]
    stores = [tokenise(column, tokenizer, each, "texts") for each in settings]
    assert len({store.folder for store in stores}) == len(settings)
    assert tokenise(column, tokenizer, settings[2], "texts").folder == stores[2].folder
    batch = TokenDataset(stores[2], np.arange(len(TEXTS)), np.zeros(len(TEXTS), int), pad=0)[np.arange(len(TEXTS))]
    assert batch["input_ids"].shape == (len(TEXTS), 8 * 8)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"long_texts": "chunks"}, "encoder.long_texts=chunks: use truncate, head_tail, chunk"),
        ({"chunk_overlap": 1.0}, "encoder.chunk_overlap=1.0"),
        ({"chunk_overlap": -0.1}, "encoder.chunk_overlap=-0.1"),
        ({"max_chunks": 0}, "encoder.max_chunks=0"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(settings, named):
    error = user_error(Tokenisation, **settings)
    assert error.startswith(named)
