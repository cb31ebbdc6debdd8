"""Labels that differ only in spelling are named, and merged on request; labels without examples are named."""

import logging

import pandas as pd
import pyarrow as pa
import pytest

from conftest import refused
from counterpoise.data.datamodule import TextDataModule
from counterpoise.data.label_spelling import replace_labels, spelling_key
from counterpoise.data.sources.files import FileSource
from counterpoise.data.token_store import load_tokenizer
from counterpoise.data.tokenisation import Tokenisation
from counterpoise.errors import UserError

PAIRS = {
    "letter case": ("spam", "SPAM"),
    "case folding": ("straße", "STRASSE"),
    "compatibility forms": ("\uff53pam", "spam"),
    "composed characters": ("caf\u00e9", "cafe\u0301"),
    "ligature": ("offer", "o\ufb00er"),
    "zero-width space": ("spam", "sp\u200bam"),
    "byte order mark": ("spam", "\ufeffspam"),
    "soft hyphen": ("spam", "sp\u00adam"),
    "direction mark": ("spam", "spam\u200f"),
    "no-break space": ("not spam", "not\u00a0spam"),
    "two spaces": ("not spam", "not  spam"),
    "trailing zero": ("1", "1.0"),
    "leading zero": ("7", "007"),
    "sign": ("1", "+1"),
    "negative": ("-1", "-1.00"),
    "full-width digit": ("1", "\uff11"),
    "bool": ("TRUE", "True"),
}
DIFFERENT = [("spam", "spams"), ("1", "-1"), ("1.5", "15"), ("a", "á"), ("a b", "ab"), ("10", "1"), ("0.1", "0.01")]


@pytest.fixture(autouse=True)
def _log_level(caplog):
    caplog.set_level(logging.WARNING)


@pytest.fixture
def make(tmp_path, tiny_encoder):
    """Makes a data module of files with these labels by split."""

    def made(options=None, **labels: list[str]) -> TextDataModule:
        files = {}
        for name, values in labels.items():
            path = tmp_path / f"{name}.csv"
            pd.DataFrame({"text": [f"word{row % 7} {name}" for row in range(len(values))], "label": values}).to_csv(
                path, index=False
            )
            files[name] = str(path)
        data = TextDataModule(
            FileSource(**files, **(options or {})), load_tokenizer(str(tiny_encoder)), Tokenisation(16)
        )
        data.prepare_data()
        data.setup()
        return data

    return made


def one_warning(data: TextDataModule, part: str) -> str:
    [line] = [line for line in data.data_warnings if part in line]
    return line


@pytest.mark.parametrize("kind", PAIRS)
def test_labels_that_differ_only_in_spelling_have_one_key(kind):
    one, other = PAIRS[kind]
    assert spelling_key(one) == spelling_key(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_other_labels_have_other_keys(one, other):
    assert spelling_key(one) != spelling_key(other)


@pytest.mark.parametrize("kind", PAIRS)
def test_spellings_in_training_are_named_with_counts_and_merged_on_request(make, caplog, kind):
    usual, odd = PAIRS[kind]
    labels = [usual] * 9 + [odd] * 4 + ["other"] * 6
    data = make(train=labels, validation=[usual, "other"], test=[usual, "other"])
    line = one_warning(data, "differ only in spelling")
    assert f"{usual!r} (9) and {odd!r} (4)" in line
    assert "data.normalise_labels=true" in line
    assert line in caplog.messages
    assert len(data.labels) == 3
    merged = make({"normalise_labels": True}, train=labels, validation=[odd, "other"], test=[odd, "OTHER"])
    assert sorted(merged.labels) == sorted([usual, "other"])
    assert merged.counts.sum() == 19
    assert [len(part) for part in merged.splits.values()] == [19, 2, 2]
    assert "merged" in one_warning(merged, "train.csv: classes that differ only")


@pytest.mark.parametrize("written", ["nan", "NaN", "None", "NULL", "null", "N/A", "<NA>", "#N/A", "NA"])
def test_labels_that_may_be_missing_values_are_named(make, caplog, written):
    labels = ["usual"] * 9 + ["other"] * 6 + [written] * 4
    line = one_warning(make(train=labels, validation=["usual"], test=["other"]), "may be missing values")
    assert f"{written!r} (4)" in line
    assert line in caplog.messages
    declared = {"label_names": ["usual", "other", written]}
    data = make(declared, train=labels, validation=["usual"], test=["other"])
    assert not any("missing values" in line for line in data.data_warnings)


@pytest.mark.parametrize("label", ["none of the above", "nana", "nothing", "0", "-", "name"])
def test_labels_that_only_resemble_missing_values_are_not_named(make, label):
    data = make(train=["usual"] * 9 + [label] * 6, validation=["usual"], test=["usual"])
    assert not any("missing values" in line for line in data.data_warnings)


@pytest.mark.parametrize("kind", PAIRS)
def test_test_labels_that_only_their_spelling_hides_are_named(make, kind):
    usual, odd = PAIRS[kind]
    train = [usual] * 9 + ["other"] * 6
    data = make(train=train, validation=[usual, "other"], test=[odd, odd, "other"])
    assert f"{odd!r} (2) is {usual!r} in training" in one_warning(data, "test.csv")
    assert data.splits["test"].unseen == 2
    with pytest.raises(UserError, match=r"data\.normalise_labels=true"):
        make(train=train, validation=[usual], test=[odd, odd])


def test_several_labels_of_a_row_are_merged(make):
    options = {"separator": "|", "normalise_labels": True}
    labels = ["a|b", "A|a", "b", "B|c", "a"] * 4
    data = make(options, train=labels, validation=labels, test=labels)
    assert data.labels == ["a", "b", "c"]
    assert data.counts.tolist() == [12, 12, 4]


def test_replaced_labels_count_once_in_a_row():
    labels = pa.array([["A", "a", "b"], [], ["b", "A"]])
    assert replace_labels(labels, {"A": "a"}).to_pylist() == [["a", "b"], [], ["b", "a"]]
    assert replace_labels(pa.array(["A", "b"]), {"A": "a"}).to_pylist() == ["a", "b"]


def test_the_spelling_of_the_declared_names_is_kept(make, tmp_path):
    names = {"label_names": ["Spam", "ham"]}
    labels = ["spam"] * 9 + ["HAM"] * 6
    with pytest.raises(UserError, match=r"data\.normalise_labels=true"):
        make(names, train=labels, validation=labels, test=labels)
    data = make(names | {"normalise_labels": True}, train=labels, validation=labels, test=labels)
    assert data.labels == ["Spam", "ham"]


# Labels without an example


def test_declared_labels_without_an_example_are_kept_and_named(make):
    labels = ["spam"] * 9 + ["ham"] * 6
    data = make({"label_names": ["ham", "spam", "phish"]}, train=labels, validation=labels, test=[*labels, "phish"])
    assert data.labels == ["ham", "phish", "spam"]
    assert data.counts.tolist() == [6, 0, 9]
    assert len(data.splits["test"]) == 16
    assert "'phish'" in one_warning(data, "without a training text")


def test_label_columns_without_a_positive_are_kept_and_named(tmp_path, tiny_encoder):
    frame = pd.DataFrame(
        {"text": [f"word{row}" for row in range(20)], "a": [1, 0] * 10, "b": [0, 1] * 10, "c": [0] * 20}
    )
    frame.to_csv(tmp_path / "a.csv", index=False)
    source = FileSource(str(tmp_path / "a.csv"), label=["c", "b", "a"])
    data = TextDataModule(source, load_tokenizer(str(tiny_encoder)), Tokenisation(16))
    data.setup()
    assert data.labels == ["a", "b", "c"]
    assert "'c'" in one_warning(data, "without a training text")
    dropped = FileSource(str(tmp_path / "a.csv"), label=["c", "b", "a"], min_count=2).load()["train"]
    assert dropped.labels.to_pylist()[0] == ["a"]


def test_one_class_is_refused_even_if_more_are_declared(make):
    labels = ["spam"] * 9
    with pytest.raises(UserError, match="at least two classes"):
        make({"label_names": ["ham", "spam"]}, train=labels, validation=labels, test=labels)


def test_a_label_that_a_sample_of_training_rows_lacks_is_named(tmp_path, tiny_encoder):
    labels = ["a"] * 60 + ["b"] * 60 + ["c"]
    pd.DataFrame({"text": [f"word{row}" for row in range(121)], "label": labels}).to_csv(
        tmp_path / "a.csv", index=False
    )
    source = FileSource(str(tmp_path / "a.csv"))
    data = TextDataModule(source, load_tokenizer(str(tiny_encoder)), Tokenisation(16), train_limit=20)
    data.setup()
    assert data.labels == ["a", "b"]
    assert "'c'" in one_warning(data, "without a training text")


def test_an_empty_file_of_names_is_refused(tmp_path):
    (tmp_path / "names.txt").write_text("\n")
    pd.DataFrame({"text": ["a", "b"], "label": ["x", "y"]}).to_csv(tmp_path / "a.csv", index=False)
    assert "data.label_names" in refused(FileSource(str(tmp_path / "a.csv"), label_names=str(tmp_path / "names.txt")))
