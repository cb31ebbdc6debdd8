"""A tokenizer that does not fit its encoder or its texts is refused or named before training."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from counterpoise.data.datamodule import TextDataModule
from counterpoise.data.sources.files import FileSource
from counterpoise.data.token_store import load_tokenizer
from counterpoise.data.tokenisation import Tokenisation
from counterpoise.data.tokenizer_checks import tokenizer_digest
from refusals import user_error

SMALL = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
CONFIGS = {
    "bert": transformers.BertConfig(**SMALL),
    "roberta": transformers.RobertaConfig(**SMALL),
    "electra": transformers.ElectraConfig(**SMALL),
    "albert": transformers.AlbertConfig(**SMALL),
    "distilbert": transformers.DistilBertConfig(vocab_size=60),
    "modernbert": transformers.ModernBertConfig(**SMALL),
    "deberta": transformers.DebertaV2Config(**SMALL),
    "mpnet": transformers.MPNetConfig(**SMALL),
    "xlnet": transformers.XLNetConfig(vocab_size=60),
    "gpt2": transformers.GPT2Config(vocab_size=60),
    "t5": transformers.T5Config(vocab_size=200),
    "bart": transformers.BartConfig(vocab_size=60),
}


def refused(folder: Path) -> str:
    error = user_error(load_tokenizer, str(folder))
    assert len(error) < 500
    return error


@pytest.fixture
def folder(tiny_encoder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny encoder that a test may damage."""
    return Path(shutil.copytree(tiny_encoder, tmp_path / "encoder"))


@pytest.mark.parametrize("family", CONFIGS)
def test_a_model_without_tokenizer_files_is_refused(family, tmp_path):
    CONFIGS[family].save_pretrained(tmp_path)
    assert "no tokenizer found" in refused(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", "{", "\0\1", '{"model": {}}', '{"added_tokens": []}'])
def test_a_damaged_tokenizer_file_is_refused(content, folder):
    (folder / "tokenizer.json").write_text(content)
    assert "no tokenizer found" in refused(folder)


@given(st.integers(1, 120))
def test_more_tokens_than_embeddings_are_refused(tiny_encoder, tmp_path_factory, embedded):
    folder = Path(shutil.copytree(tiny_encoder, tmp_path_factory.mktemp("sizes") / "encoder"))
    config = json.loads((folder / "config.json").read_text())
    needed = config["vocab_size"]  # the tiny encoder embeds each of its tokens
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": embedded, "pad_token_id": 0}))
    if embedded >= needed:
        assert len(load_tokenizer(str(folder))) == needed
    else:
        line = refused(folder)
        assert f"{needed} token ids" in line
        assert f"{embedded} embeddings" in line


def test_an_added_token_without_an_embedding_is_refused(folder):
    tokenizer = load_tokenizer(str(folder))
    tokenizer.add_tokens(["<url>"])
    tokenizer.save_pretrained(folder)
    assert f"{len(tokenizer)} token ids" in refused(folder)


@pytest.mark.parametrize("unknown", [0, 1, 8, 9, 60])
def test_texts_of_unknown_tokens_are_named_above_a_share(unknown, tiny_encoder, tmp_path, caplog):
    """There are 160 tokens; more than 8 unknown ones exceed the limit of one in 20."""
    words = ["word1"] * 10
    rows = []
    for row in range(16):
        mine = min(10, max(0, unknown - 10 * row))
        rows.append(f"{' '.join(['zzz'] * mine + words[mine:])},{'ab'[row % 2]}")
    file = tmp_path / "texts.csv"
    file.write_text("text,label\n" + "\n".join(rows) + "\n")
    data = TextDataModule(
        FileSource(train=str(file), validation=str(file), test=str(file)), load_tokenizer(str(tiny_encoder))
    )
    data.tokenisation = Tokenisation(32)
    with caplog.at_level(logging.WARNING):
        data.setup()
    named = [record.getMessage() for record in caplog.records if "unknown to the tokenizer" in record.getMessage()]
    assert len(named) == (3 if unknown > 8 else 0)
    assert all("[UNK]" in line for line in named)


def test_the_digest_changes_with_what_decides_the_tokens_only(tiny_encoder, folder):
    tokenizer = load_tokenizer(str(tiny_encoder))
    before = tokenizer_digest(tokenizer)
    tokenizer.backend_tokenizer.enable_truncation(7)
    tokenizer.backend_tokenizer.enable_padding()
    assert tokenizer_digest(tokenizer) == before == tokenizer_digest(load_tokenizer(str(folder)))
    for old, new in (('"Lowercase"', '"NFC"'), ('"word3"', '"other3"'), ('"Whitespace"', '"WhitespaceSplit"')):
        text = (tiny_encoder / "tokenizer.json").read_text()
        assert old in text
        (folder / "tokenizer.json").write_text(text.replace(old, new))
        assert tokenizer_digest(load_tokenizer(str(folder))) != before
