import pickle
import shutil
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from rich.progress import Progress
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase

from counterpoise.data import token_store
from counterpoise.data.token_store import TokenStore, load_tokenizer
from counterpoise.data.tokenisation import Tokenisation
from counterpoise.errors import UserError

TEXTS = [
    "word0 alpha1",
    "Word1 unheard-of 两会 🎉",
    " ".join(f"word{i}" for i in range(40)),
    "word3 word4 word5 word6 word7 word8",
    "word9",
]


@pytest.fixture
def tokenizer(tiny_encoder) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(tiny_encoder))


def column(texts: list[str], *cuts: int) -> pa.ChunkedArray:
    edges = [0, *cuts, len(texts)]
    chunks = [texts[a:b] for a, b in pairwise(edges)]
    return pa.chunked_array([pa.array(chunk, pa.large_string()) for chunk in chunks])


def tokenise(tokenizer, texts=TEXTS, max_length=8, cuts=()) -> TokenStore:
    return token_store.tokenise(column(texts, *cuts), tokenizer, Tokenisation(max_length), "texts")


def rows(store: TokenStore) -> list[list[int]]:
    return [store.tokens[a:b].tolist() for a, b in pairwise(store.offsets)]


@pytest.mark.parametrize("max_length", [3, 8, 64])
def test_each_row_holds_the_token_ids_of_the_tokenizer(tokenizer, max_length):
    expected = tokenizer(TEXTS, truncation=True, max_length=max_length)["input_ids"]
    store = tokenise(tokenizer, max_length=max_length)
    assert rows(store) == expected
    assert len(store) == len(TEXTS)
    assert store.lengths.tolist() == [len(ids) for ids in expected]
    assert {ids[0] for ids in rows(store)} == {tokenizer.cls_token_id}
    assert {ids[-1] for ids in rows(store)} == {tokenizer.sep_token_id}


def test_rows_beyond_one_chunk_are_in_order(tokenizer, monkeypatch):
    monkeypatch.setattr(token_store, "TEXTS_PER_CHUNK", 2)
    assert rows(tokenise(tokenizer)) == tokenizer(TEXTS, truncation=True, max_length=8)["input_ids"]


def whole_lengths(tokenizer, texts) -> list[int]:
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    return [len(backend.encode(text)) for text in texts]


@pytest.mark.parametrize("max_length", [3, 4, 8, 41, 42, 64])
@pytest.mark.parametrize("side", ["left", "right"])
def test_lengths_are_counted_before_truncation(tokenizer, max_length, side):
    tokenizer.truncation_side = side
    store = tokenise(tokenizer, max_length=max_length)
    assert store.full_lengths.tolist() == whole_lengths(tokenizer, TEXTS)
    np.testing.assert_array_equal(store.lengths, np.minimum(store.full_lengths, max_length))


@pytest.mark.parametrize("specials", [(), ("[CLS]",), ("[CLS]", "[SEP]"), ("[CLS]", "[CLS]", "[SEP]", "[SEP]")])
@pytest.mark.parametrize("model", ["words", "bytes"])
def test_lengths_before_truncation_of_any_tokenizer(tokenizer, specials, model):
    backend = tokenizer.backend_tokenizer
    if model == "bytes":
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokens = {token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters])}
        backend.model, backend.pre_tokenizer = models.BPE(tokens, []), pre_tokenizers.ByteLevel()
    place = {name: backend.token_to_id(name) for name in specials}
    single = [*specials[: len(specials) // 2], "$A", *specials[len(specials) // 2 :]]
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=list(place.items()))
    texts = [*TEXTS, "", "word1 " * 1000, "x" * 300]
    store = tokenise(tokenizer, texts, max_length=7)
    assert store.full_lengths.tolist() == whole_lengths(tokenizer, texts)
    assert store.lengths.max() == 7


def test_small_vocabularies_take_two_bytes_per_token(tokenizer):
    assert tokenise(tokenizer).tokens.dtype == np.uint16


def test_the_same_texts_are_tokenised_once(tokenizer, tiny_encoder):
    first = tokenise(tokenizer)
    before = (first.folder / "tokens.bin").stat()
    again = tokenise(load_tokenizer(str(tiny_encoder)))
    after = (again.folder / "tokens.bin").stat()
    assert again.folder == first.folder
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_removed_store_is_built_again(tokenizer):
    store = tokenise(tokenizer)
    shutil.rmtree(store.folder)
    assert rows(tokenise(tokenizer)) == rows(store)


def test_using_the_tokenizer_in_between_does_not_change_the_key(tokenizer):
    first = tokenise(tokenizer)
    tokenizer(TEXTS, padding=True, truncation=True, max_length=5)
    assert tokenise(tokenizer).folder == first.folder


@pytest.mark.parametrize(
    "texts",
    [
        [*TEXTS, "word9"],
        TEXTS[:-1],
        TEXTS[::-1],
        [*TEXTS[:-1], "word8"],
        [*TEXTS[:-1], "word9 "],
        ["word0", " alpha1", *TEXTS[1:]],
    ],
)
def test_other_texts_have_another_key(tokenizer, texts):
    assert tokenise(tokenizer, texts).folder != tokenise(tokenizer).folder


def test_another_length_has_another_key(tokenizer):
    assert tokenise(tokenizer, max_length=9).folder != tokenise(tokenizer, max_length=8).folder


def test_another_tokenizer_has_another_key(tokenizer, tiny_encoder):
    other = load_tokenizer(str(tiny_encoder))
    other.add_tokens(["unheard"])
    assert tokenise(other).folder != tokenise(tokenizer).folder


@pytest.mark.parametrize("cuts", [(1,), (2, 2, 4), (0, 5)])
def test_the_key_does_not_depend_on_the_chunks_of_the_column(tokenizer, cuts):
    assert tokenise(tokenizer, cuts=cuts).folder == tokenise(tokenizer).folder


def test_a_slice_of_a_column_has_the_key_of_its_own_texts(tokenizer):
    part = token_store.tokenise(column(TEXTS).slice(1, 3), tokenizer, Tokenisation(8), "texts")
    assert rows(part) == rows(tokenise(tokenizer))[1:4]


def test_long_texts_are_tokenised_fewer_at_a_time(tokenizer, monkeypatch):
    monkeypatch.setattr(token_store, "BYTES_PER_CHUNK", 30)
    assert [len(chunk) for chunk in token_store._chunks(column(TEXTS))] == [1, 1, 1, 2]
    assert rows(tokenise(tokenizer)) == tokenizer(TEXTS, truncation=True, max_length=8)["input_ids"]


def test_the_files_of_a_store_are_those_that_numpy_writes(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(token_store, "TEXTS_PER_CHUNK", 10)
    texts = [f"word{i % 40} alpha{i % 8} " * (i % 9) + "end" for i in range(101)]
    expected = tokenizer(texts, truncation=True, max_length=12)["input_ids"]
    folder = tokenise(tokenizer, texts, 12).folder
    np.save(tmp_path / "offsets.npy", np.cumsum([0, *map(len, expected)]))
    assert (folder / "offsets.npy").read_bytes() == (tmp_path / "offsets.npy").read_bytes()
    assert (folder / "tokens.bin").read_bytes() == np.concatenate(expected).astype(np.uint16).tobytes()
    assert sorted(path.name for path in folder.iterdir()) == [
        "checksums.json",
        "full_lengths.npy",
        "meta.json",
        "offsets.npy",
        "tokens.bin",
    ]


def test_an_interrupted_tokenisation_leaves_nothing_in_the_cache(tokenizer, cache, monkeypatch):
    def interrupt(*arguments) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(Progress, "advance", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tokenise(tokenizer)
    assert not [path for path in (cache / "tokens").iterdir() if path.is_dir()]
    assert len(tokenise(tokenizer)) == len(TEXTS)


def test_a_pickled_store_holds_only_its_path(tokenizer):
    store = tokenise(tokenizer, TEXTS * 200)
    pickled = pickle.dumps(store)
    assert len(pickled) < 500
    copy = pickle.loads(pickled)
    assert rows(copy) == rows(store)
    assert copy.full_lengths.tolist() == store.full_lengths.tolist()


def test_a_length_beyond_the_encoder_is_refused_in_one_line(tokenizer):
    with pytest.raises(UserError, match="at most 64") as error:
        tokenise(tokenizer, max_length=65)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("max_length", [0, -1, 2])
def test_a_length_without_space_for_a_token_is_refused_in_one_line(tokenizer, max_length):
    with pytest.raises(UserError, match=f"max_length={max_length}") as error:
        tokenise(tokenizer, max_length=max_length)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_tokenizer_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match="no tokenizer") as error:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(error.value)
