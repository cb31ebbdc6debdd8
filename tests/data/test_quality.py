from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_matrix

from counterpoise.data import near_duplicates, quality
from counterpoise.data.datamodule import TextDataModule
from counterpoise.data.sources.files import FileSource
from counterpoise.data.token_store import load_tokenizer
from counterpoise.data.tokenisation import Tokenisation


def texts(*values: str) -> pa.Array:
    return pa.array(values, pa.large_string())


def shingles(text: str) -> set[str]:
    return {text[i : i + near_duplicates.SHINGLE] for i in range(len(text) - near_duplicates.SHINGLE + 1)}


def near(*values: str) -> list[tuple[int, int]]:
    found = near_duplicates.find_near_duplicates(texts(*values))
    return list(zip(found.left.tolist(), found.right.tolist(), strict=True))


def variations(rng: np.random.Generator, count: int, letters: str = "abcdefghij ") -> list[str]:
    """Texts where every second text is its predecessor with some characters changed."""
    values = []
    for _ in range(count):
        text = rng.choice(list(letters), int(rng.integers(20, 200)))
        values.append("".join(text).strip() + "a")
        changed = rng.integers(0, len(text), int(rng.integers(0, 1 + len(text) // 12)))
        text[changed] = "x"
        values.append("".join(text).strip() + "a")
    return values


def test_equal_texts_ignore_case_spaces_and_compatibility_forms():
    values = texts("One  text", "another", " one text\n", "ONE\ttext", "\uff4fne\u3000text", "anothér", "one texts")
    assert quality.group_equal_texts(values).tolist() == [0, 1, 0, 0, 0, 2, 3]
    assert quality.group_equal_texts(pa.chunked_array([texts("a"), texts("A")])).tolist() == [0, 0]
    assert quality.group_equal_texts(texts()).tolist() == []


@pytest.mark.parametrize("block", [near_duplicates.BLOCK, 500], ids=["one block", "many blocks"])
def test_near_duplicates_match_an_exhaustive_comparison(monkeypatch, block):
    monkeypatch.setattr(near_duplicates, "BLOCK", block)
    values = variations(np.random.default_rng(0), 100)
    sets = [shingles(" ".join(value.split())) for value in values]
    true = {(i, j): len(sets[i] & sets[j]) / len(sets[i] | sets[j]) for j in range(len(sets)) for i in range(j)}
    found = near_duplicates.find_near_duplicates(texts(*values))
    pairs = list(zip(found.left.tolist(), found.right.tolist(), strict=True))
    assert pairs == sorted(pairs)
    np.testing.assert_allclose(found.similarity, [true[pair] for pair in pairs])
    wanted = {pair for pair, similarity in true.items() if similarity >= near_duplicates.MIN_SIMILARITY}
    assert set(pairs) <= wanted
    assert len(wanted) > 30
    assert len(wanted - set(pairs)) <= 1


@pytest.mark.parametrize(
    ("one", "other", "are_near"),
    [
        ("library of version 1.74, headers", "Library of version 1.81: headers", True),
        ("library of version one, headers", "an editor of pictures and photographs", False),
        ("今天天气很好我们去公园", "今天天气很好我们去公园!", True),
        ("12 / 7", "19 / 8", False),
        ("!!!", "???", False),
        ("ab", "ab!", True),
        ("ab", "ac", False),
    ],
)
def test_near_duplicates_differ_in_few_letters(one, other, are_near):
    assert near(one, "something else entirely", other) == ([(0, 2)] if are_near else [])


@pytest.mark.parametrize("values", [(), ("alone",), ("one of two", "and the second")])
def test_too_few_texts_have_no_near_duplicates(values):
    assert near(*values) == []


def test_leaks_are_found_in_large_families_of_near_duplicates():
    values = texts(*(f"failed to connect to the server number {row}" for row in range(1000)))
    part = np.repeat([0, 1], [800, 200])
    found = quality.leaks(quality.group_equal_texts(values), part, 0, 1, near_duplicates.find_near_duplicates(values))
    assert sorted(found.row) == list(range(800, 1000))


def test_a_leak_is_reported_with_the_most_similar_row_of_its_source():
    groups = np.array([0, 1, 0, 2, 0, 3, 4, 5])
    part = np.array([0, 0, 0, 1, 1, 1, 1, 2])
    pairs = near_duplicates.SimilarPairs(
        np.array([0, 1, 2, 0]), np.array([2, 2, 3, 4]), np.array([0.8, 0.9, 0.95, 0.85])
    )
    found = quality.leaks(groups, part, 0, 1, pairs)
    assert found.to_dict("list") == {
        "row": [4, 3, 6],
        "of": [0, 1, 0],
        "similarity": [1.0, 0.9, 0.85],
        "equal": [True, False, False],
    }
    assert quality.leaks(groups, part, 0, 1).row.tolist() == [4]
    assert quality.leaks(groups, part, 0, 2, pairs).empty


def test_a_near_duplicate_counts_only_if_both_texts_are_present():
    pairs = near_duplicates.SimilarPairs(np.array([0, 1, 0]), np.array([2, 2, 4]), np.array([0.8, 0.9, 0.85]))
    assert quality.has_near_duplicate(np.array([0, 5, 4, 0, 1]), pairs).tolist() == [True, False, True, True, False]
    assert quality.has_near_duplicate(np.array([0, 1]), pairs).tolist() == [False, False]


def test_digits_distinguish_texts_that_consist_of_digits():
    assert near("w12 w7 w9 w433 w21 w75 w90", "w80 w1 w3 w12 w64 w22 w19", "w12 w7 w9 w433 w21 w75 w90 .") == [(0, 2)]


def test_equal_texts_of_different_classes_conflict():
    groups = np.array([0, 1, 0, 2, 1, 3, 3])
    assert quality.conflicting_groups(groups, np.array([5, 1, 5, 1, 2, 0, 0])).tolist() == [1]


def test_equal_texts_of_different_sets_of_labels_conflict():
    groups = np.array([0, 0, 1, 1, 2, 2, 3])
    sets = csr_matrix(np.array([[1, 0, 1], [1, 0, 1], [1, 1, 0], [1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]], bool))
    assert quality.conflicting_groups(groups, sets).tolist() == [1, 2]


def test_unusual_texts_are_reported_by_reason():
    long = " ".join(["sentence"] * 60)
    values = texts("a usual sentence", "Word", "12:30 - 14", "caf\ufffd au lait", long, "a \x07 bell", "天气很好")
    found = {reason: rows.tolist() for reason, rows in quality.unusual_texts(values).items()}
    assert found == {"one word": [1], "no letter": [2], "damaged characters": [3, 5], "extremely long": [4]}


def test_imbalance_of_counts_worked_by_hand():
    found = quality.imbalance(np.array([1, 8, 3]))
    assert found["ratio"] == 8
    assert found["half"] == 1
    # Mean difference over all pairs: 2 (7 + 2 + 5) / 9; twice the mean: 8.
    assert found["gini"] == pytest.approx(28 / 9 / 8)
    shares = np.array([1, 8, 3]) / 12
    assert found["entropy"] == pytest.approx(-(shares * np.log(shares)).sum() / np.log(3))
    assert quality.imbalance(np.array([4, 4, 4])) == pytest.approx({"ratio": 1, "entropy": 1, "gini": 0, "half": 2})
    assert quality.imbalance(np.array([4])) == {"ratio": 1, "entropy": 1, "gini": 0, "half": 1}


@pytest.mark.parametrize(
    ("counts", "rows", "multi_label", "strategy"),
    [
        ([50, 40, 5], 95, False, "plain"),
        ([500, 40, 5], 545, False, "combined"),
        ([500, 40, 5, 4], 549, False, "combined"),
        ([500, 40, 4, 4], 548, False, "square_root_sampled"),
        ([40, 4], 44, False, "plain"),
        ([500, *[50] * 291, *[2] * 558], 16166, False, "square_root_sampled"),
        ([500, *[50] * 600, *[2] * 249], 30998, False, "combined"),
        ([50, 40, 5], 60, True, "plain"),
        ([50, 40, 5], 1000, True, "distribution_balanced"),
        ([500, 40, 5], 600, True, "distribution_balanced"),
    ],
)
def test_the_recommended_strategy_follows_from_ratio_and_task(counts, rows, multi_label, strategy):
    assert quality.recommend_strategy(np.array(counts), rows, multi_label, tail=1)[0] == strategy


def test_plain_is_mentioned_if_there_is_no_tail():
    assert "plain" in quality.recommend_strategy(np.array([500, 30]), 530, False, tail=0)[1]


@pytest.fixture
def split_data(tmp_path, tiny_encoder):
    """Makes a data module of rows (text, label) by split."""

    def make(max_length: int = 16, **rows: list[tuple[str, str]]) -> TextDataModule:
        paths = {}
        for name, pairs in rows.items():
            paths[name] = str(tmp_path / f"{name}.tsv")
            Path(paths[name]).write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in pairs))
        data = TextDataModule(FileSource(**paths), load_tokenizer(str(tiny_encoder)), Tokenisation(max_length))
        data.prepare_data()
        data.setup()
        return data

    return make


TRAIN = [("word1 word2", "a"), ("word3", "b"), ("word4 word5", "a"), ("word6 word7", "c")]


def short(data: TextDataModule) -> list[str]:
    return quality.find_data_warnings(data.splits, data.labels)


def test_clean_data_gives_no_warnings(split_data):
    held = [("word8", "a"), ("word9 word8", "b"), ("word1", "c")]
    assert short(split_data(train=TRAIN, validation=held, test=held)) == []


def test_warnings_count_leaks_conflicts_and_absent_classes(split_data):
    held = {"validation": [("WORD3", "b"), ("word8", "a")], "test": [("word1  word2", "b"), ("Word3", "b"), ("x", "b")]}
    assert short(split_data(train=TRAIN, **held)) == [
        "texts that also occur in training (ignoring case and spaces): 1 of 2 validation and 2 of 3 test",
        "equal texts with different classes: 1",
        "classes without a test text, which cannot be evaluated: 2 of 3",
    ]


def test_too_much_text_is_not_compared_and_a_warning_says_so(split_data, monkeypatch):
    monkeypatch.setattr(quality, "MAX_COMPARED_BYTES", 10)
    data = split_data(train=TRAIN, validation=TRAIN, test=TRAIN)
    assert short(data) == [
        "too much text to search for repeated texts in each run; python -m counterpoise.audit does it"
    ]


PHRASES = [
    "déjà vu à Paris",
    "Größe und Maß",
    "mañana señor",
    "it\u2019s “fine” – 5 €",
    "привет, как дела",
    "今天天气很好",
    "🎉 yes",
]


@pytest.mark.parametrize("phrase", PHRASES)
@pytest.mark.parametrize("wrong", ["cp1252", "latin-1", "ascii"])
def test_texts_in_a_wrong_encoding_are_a_data_warning(split_data, phrase, wrong):
    damaged = phrase.encode().decode(wrong, errors="replace")
    held = [("word8", "a"), ("word9 word8", "b"), ("word1", "c")]
    data = split_data(train=[*TRAIN, (f"word9 {damaged}", "a")], validation=held, test=held)
    [line] = short(data)
    assert "damaged characters" in line
    assert "1 of 5 train" in line


@pytest.mark.parametrize(
    "phrase", [*PHRASES, "PÂTÉ À L\u2019ÂNE", "“A MAÇÔ, NÃO É", "Það er Ðí", "ÑANDÚ, ½ £ ©", "«voilà…»"]
)
def test_texts_in_the_right_encoding_are_no_warning(split_data, phrase):
    held = [("word8", "a"), ("word9 word8", "b"), ("word1", "c")]
    assert short(split_data(train=[*TRAIN, (phrase, "a")], validation=held, test=held)) == []


def test_cp1252_read_as_latin_1_is_a_data_warning(split_data):
    damaged = "it\u2019s “fine” – 5 €".encode("cp1252").decode("latin-1")
    held = [("word8", "a"), ("word9 word8", "b"), ("word1", "c")]
    assert "damaged characters" in short(split_data(train=[*TRAIN, (damaged, "a")], validation=held, test=held))[0]
