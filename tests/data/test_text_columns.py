"""Texts of several columns: reading, joining, and the tokens of the columns."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from tokenizers import Tokenizer, processors

from counterpoise.data.datamodule import TextDataModule
from counterpoise.data.sources.files import FileSource
from counterpoise.data.text_columns import join_columns, join_texts, split_columns
from counterpoise.data.token_store import load_tokenizer
from counterpoise.data.tokenisation import Specials, Tokenisation, shortened
from counterpoise.errors import UserError


@pytest.fixture
def tokenizer(tiny_encoder) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(tiny_encoder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def words(tokenizer: Tokenizer, *texts: str, **settings) -> str:
    tokenisation = Tokenisation(**{"max_length": 10, "columns": len(texts)} | settings)
    tokenisation.prepare(tokenizer)
    [found] = tokenisation.encode(tokenizer, [join_texts(texts)])
    return " ".join(tokenizer.id_to_token(number) for number in found.ids)


def test_joined_columns_can_be_taken_apart_and_nulls_are_empty():
    columns = [pa.array(["a", None, " b ", ""]), pa.chunked_array([["x\u2029y"], [None, "", "z"]])]
    texts = join_columns(columns).cast(pa.large_string()).to_pylist()
    assert [split_columns(text) for text in texts] == [["a", "x\ny"], ["", ""], [" b ", ""], ["", "z"]]
    assert texts[0] == join_texts(["a", "x\u2029y"])


def test_two_columns_have_the_tokens_of_a_pair(tokenizer):
    assert words(tokenizer, "word1", "word2 word3") == "[CLS] word1 [SEP] word2 word3 [SEP]"
    assert tokenizer.encode("word1", "word2 word3").tokens == words(tokenizer, "word1", "word2 word3").split()


def test_more_columns_are_separated_as_those_of_a_pair(tokenizer):
    assert words(tokenizer, "word1", "", "word2") == "[CLS] word1 [SEP] [SEP] word2 [SEP]"


def test_a_tokenizer_without_pairs_separates_columns_by_its_last_special_tokens(tokenizer, tiny_encoder):
    plain = Tokenizer.from_file(str(tiny_encoder / "tokenizer.json"))
    assert words(plain, "word1", "word2") == "[CLS] word1 [SEP] word2 [SEP]"


def test_roberta_has_two_special_tokens_between_columns(tokenizer):
    tokenizer.post_processor = processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2))
    assert Specials.of(tokenizer) == ([2], [3, 3], [3])
    assert words(tokenizer, "word1", "word2") == "[CLS] word1 [SEP] [SEP] word2 [SEP]"


def test_the_longest_column_is_shortened_first(tokenizer):
    body = " ".join(f"word{i}" for i in range(20))
    assert words(tokenizer, "alpha1 alpha2", body) == "[CLS] alpha1 alpha2 [SEP] word0 word1 word2 word3 word4 [SEP]"
    assert words(tokenizer, body, "alpha1") == "[CLS] word0 word1 word2 word3 word4 word5 [SEP] alpha1 [SEP]"
    assert words(tokenizer, body, body) == "[CLS] word0 word1 word2 [SEP] word0 word1 word2 word3 [SEP]"


@pytest.mark.parametrize("lengths", [[3, 9], [9, 3], [0, 0], [5, 5], [1, 2, 30], [30, 2, 30], [7]])
@pytest.mark.parametrize("room", [0, 1, 5, 10, 11, 100])
def test_shortened_columns_fill_the_room_and_lose_no_more_than_needed(lengths, room):
    kept = shortened(lengths, room)
    assert sum(kept) == min(room, sum(lengths))
    cut = [length for length, own in zip(kept, lengths, strict=True) if length < own]
    assert all(own <= length for own, length in zip(lengths, kept, strict=True) if own < min(cut, default=0))
    assert not cut or max(kept) - min(cut) <= len(lengths)


@pytest.mark.parametrize("mode", ["head_tail", "chunk"])
def test_other_modes_read_the_joined_columns_as_one_text(tokenizer, mode):
    body = " ".join(f"word{i}" for i in range(20))
    found = words(tokenizer, "alpha1", body, long_texts=mode, chunk_overlap=0).split()
    assert found[:3] == ["[CLS]", "alpha1", "[SEP]"]
    assert found[-2:] == ["word19", "[SEP]"]
    assert len(found) % 10 == 0


@pytest.fixture
def table(tmp_path) -> str:
    rows = [(f"word{i}", f"alpha{i % 8} word{i} word{i + 1}", "ab"[i % 2]) for i in range(30)]
    frame = pd.DataFrame(rows, columns=["title", "body", "label"])
    frame.loc[3, "title"] = frame.loc[4, "body"] = None
    frame.loc[5, ["title", "body"]] = None
    frame.to_parquet(tmp_path / "table.parquet")
    return str(tmp_path / "table.parquet")


def test_rows_without_any_text_are_dropped_and_a_missing_column_is_empty(table, tiny_encoder):
    split = FileSource(table, text=["title", "body"]).load()["train"]
    assert split.columns == 2
    assert split.dropped == {"without a text": 1}
    assert 6 not in split.rows
    source, tokenizer = FileSource(table, text=["title", "body"]), load_tokenizer(str(tiny_encoder))
    data = TextDataModule(source, tokenizer, Tokenisation(16))
    data.setup()
    assert data.tokenisation.columns == 2
    dataset = data.splits["train"].dataset
    batch = dataset.inputs(np.arange(len(dataset)))
    assert set((batch["input_ids"] == tokenizer.sep_token_id).sum(1).tolist()) == {2}
    assert not [line for line in data.data_warnings if "damaged" in line]


def test_columns_change_the_token_store(table, tiny_encoder):
    stores = []
    for text in ("title", ["title", "body"], ["body", "title"]):
        data = TextDataModule(FileSource(table, text=text), load_tokenizer(str(tiny_encoder)), Tokenisation(16))
        data.setup()
        stores.append(data.splits["train"].dataset.store.folder)
    assert len(set(stores)) == 3


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (["title", "title"], "name one column, or several different ones"),
        (["title"], "name one column, or several different ones"),
        (["title", "label"], "data.text and data.label are both 'label'"),
        (["title", "boddy"], "no column 'boddy'"),
        (["title", 2.5], "data.text is 2.5"),
    ],
)
def test_columns_that_cannot_be_read_are_refused_in_one_line(table, text, named):
    with pytest.raises(UserError, match=named) as error:
        FileSource(table, text=text).load()
    assert "\n" not in str(error.value)
