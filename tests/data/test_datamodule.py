import json
import logging
from itertools import pairwise

import numpy as np
import pytest
import torch

from conftest import COUNTS, write_texts
from counterpoise.balance import PowerSampler
from counterpoise.data.datamodule import TextDataModule
from counterpoise.data.sources.files import FileSource
from counterpoise.data.token_store import load_tokenizer
from counterpoise.data.tokenisation import Tokenisation
from counterpoise.errors import UserError
from refusals import user_error


@pytest.fixture(scope="module")
def tokenizer(tiny_encoder):
    return load_tokenizer(str(tiny_encoder))


@pytest.fixture
def make(tokenizer, tmp_path):
    """Return a set-up data module of generated files: `make(train={"alpha": 9, ...}, test={...})`."""

    def made(on_bad_row: str = "drop", options=None, **counts: dict[str, int]) -> TextDataModule:
        files = {name: str(write_texts(tmp_path / f"{name}.csv", of)) for name, of in counts.items()}
        source = FileSource(**files, on_bad_row=on_bad_row)
        data = TextDataModule(source, tokenizer, Tokenisation(16), **(options or {}))
        data.prepare_data()
        data.setup()
        return data

    return made


def per_class(data: TextDataModule, split: str) -> dict[str, int]:
    counts = np.bincount(data.splits[split].targets, minlength=len(data.labels))
    return dict(zip(data.labels, counts.tolist(), strict=True))


def test_missing_validation_and_test_are_split_off_stratified_by_class(make):
    data = make(train=COUNTS)
    # 20 % of 60, 24, 8 and 1 for the test, then 10 % of what is left for validation.
    assert per_class(data, "test") == {"alpha": 12, "beta": 5, "delta": 0, "gamma": 2}
    assert per_class(data, "validation") == {"alpha": 5, "beta": 2, "delta": 0, "gamma": 1}
    assert per_class(data, "train") == {"alpha": 43, "beta": 17, "delta": 1, "gamma": 5}


def test_the_parts_of_a_split_are_disjoint_and_complete(make):
    data = make(train=COUNTS)
    rows = np.concatenate([examples.rows for examples in data.splits.values()])
    assert sorted(rows) == list(range(1, 94))
    assert {len(examples.dataset) for examples in data.splits.values()} == {len(e) for e in data.splits.values()}


def test_given_splits_are_not_split_off(make):
    data = make(train=COUNTS, validation={"alpha": 5, "beta": 3}, test={"alpha": 4, "gamma": 2})
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 93, "validation": 8, "test": 6}
    assert per_class(data, "train") == COUNTS


def test_splits_depend_on_split_seed_only(make):
    rows = make(train=COUNTS).splits["test"].rows.tolist()
    assert make(train=COUNTS, options={"seed": 1}).splits["test"].rows.tolist() == rows
    assert make(train=COUNTS, options={"split_seed": 1}).splits["test"].rows.tolist() != rows


def test_a_class_of_one_example_stays_in_training_only(make):
    data = make(train=COUNTS, options={"validation_fraction": 0.9, "test_fraction": 0.9})
    assert per_class(data, "train")["delta"] == 1
    assert per_class(data, "validation")["delta"] == per_class(data, "test")["delta"] == 0


def test_vocabulary_and_counts_come_from_training_only(make):
    data = make(train={"beta": 9, "alpha": 20}, validation={"alpha": 5, "beta": 5}, test={"alpha": 7, "gamma": 8})
    assert data.labels == ["alpha", "beta"]
    assert data.counts.tolist() == [20, 9]


def test_a_class_only_in_test_is_dropped_and_counted_with_a_warning(make, caplog):
    with caplog.at_level(logging.WARNING):
        data = make(train={"alpha": 20, "beta": 20}, test={"alpha": 4, "gamma": 3, "delta": 1})
    test = data.splits["test"]
    assert (len(test), test.unseen) == (4, 4)
    assert set(test.targets) == {0}
    assert "test.csv: 4 test rows have classes that do not occur in training: 'gamma' (3), 'delta' (1)" in caplog.text
    assert data.splits["validation"].unseen == 0


def test_a_class_only_in_test_is_an_error_with_on_bad_row_error(make):
    message = user_error(make, "error", train={"alpha": 20, "beta": 20}, test={"alpha": 4, "gamma": 3})
    assert "'gamma' (3)" in message
    assert "data.on_bad_row=drop" in message


def test_a_test_without_any_known_class_is_refused(make):
    assert "no test row" in user_error(make, train={"alpha": 20, "beta": 20}, test={"gamma": 3})


def test_dropped_rows_do_not_change_the_numbers_of_other_rows(make):
    data = make(train={"alpha": 20, "beta": 20}, test={"gamma": 5, "alpha": 5, "beta": 5})
    test = data.splits["test"]
    labels = test.split.labels.to_pylist()
    assert [labels[row - 1] for row in test.rows] == [data.labels[c] for c in test.targets]
    assert test.ids == [str(row) for row in test.rows]
    texts = test.split.texts.to_pylist()
    batch = test.dataset[np.arange(len(test))]
    for i, row in enumerate(test.rows):
        expected = data.tokenizer(texts[row - 1], truncation=True, max_length=16)["input_ids"]
        assert batch["input_ids"][i][batch["attention_mask"][i].bool()].tolist() == expected


def test_a_class_may_be_absent_from_validation(make, caplog):
    data = make(train=COUNTS, validation={"alpha": 5}, test=COUNTS)
    assert per_class(data, "validation") == {"alpha": 5, "beta": 0, "delta": 0, "gamma": 0}
    assert not caplog.records


def test_a_single_class_is_refused(make):
    assert "at least two classes" in user_error(make, train={"alpha": 20})


def test_classes_too_small_to_split_are_refused(make):
    message = user_error(make, train={"alpha": 2, "beta": 2})
    assert "loader.test_fraction" in message


@pytest.mark.parametrize(
    "options",
    [
        {"validation_fraction": 0},
        {"test_fraction": 1.0},
        {"eval_order": "shortest"},
        {"train_limit": -5},
        {"train_limit": 0},
        {"validation_limit": 0},
        {"split_seed": -1},
    ],
    ids=str,
)
def test_invalid_options_are_refused(make, options):
    assert f"loader.{next(iter(options))}" in user_error(make, train=COUNTS, options=options)


def test_a_train_limit_takes_a_stratified_sample(make):
    data = make(train=COUNTS, validation=COUNTS, test=COUNTS, options={"train_limit": 31})
    # A third of 60, 24, 8 and 1.
    assert per_class(data, "train") == {"alpha": 20, "beta": 8, "gamma": 3}
    assert data.labels == ["alpha", "beta", "gamma"]
    assert data.splits["test"].unseen == data.splits["validation"].unseen == 1


def test_rows_of_classes_that_a_train_limit_removed_are_counted_in_their_own_split(make, caplog):
    data = make(train={"alpha": 300, "beta": 300, "gamma": 20}, options={"train_limit": 10})
    assert data.labels == ["alpha", "beta"]
    # 20 % of gamma's 20, then 10 % of the 16 left.
    for rows in ("4 test", "2 validation"):
        assert (
            f"{rows} rows have classes that do not occur in training on a sample (loader.train_limit=10)" in caplog.text
        )
    assert (data.splits["test"].unseen, data.splits["validation"].unseen) == (4, 2)


def test_a_train_limit_above_the_number_of_rows_has_no_effect(make):
    data = make(train=COUNTS, validation=COUNTS, test=COUNTS, options={"train_limit": 1000})
    assert per_class(data, "train") == COUNTS


def test_a_train_limit_that_leaves_one_class_is_refused(make):
    message = user_error(make, train={"alpha": 500, "beta": 5}, options={"train_limit": 20})
    assert "loader.train_limit=20" in message


@pytest.mark.parametrize("given", [(), ("validation",), ("test",), ("validation", "test")], ids=str)
@pytest.mark.parametrize(
    "limits", [{"train_limit": 30}, {"validation_limit": 3}, {"train_limit": 30, "validation_limit": 3}, {}], ids=str
)
def test_only_texts_that_are_used_are_encoded(make, given, limits):
    files = {"train": COUNTS, **dict.fromkeys(given, COUNTS)}
    data = make(**files, options=limits)
    stores = {id(part.dataset.store): part.dataset.store for part in data.splits.values()}
    assert sum(map(len, stores.values())) == sum(len(part) + part.unseen for part in data.splits.values())
    for part in data.splits.values():
        rows = np.arange(len(part))
        batch = part.dataset[rows]
        for text, ids, mask in zip(part.texts(rows), batch["input_ids"], batch["attention_mask"], strict=True):
            assert ids[mask.bool()].tolist() == data.tokenizer(text, truncation=True, max_length=16)["input_ids"]


@pytest.mark.parametrize("given", [True, False])
def test_a_validation_limit_takes_a_stratified_sample_of_all_lengths(make, given):
    counts = {"alpha": 600, "beta": 240, "gamma": 80, "delta": 10}
    files = {"train": counts, "test": COUNTS} | ({"validation": counts} if given else {})
    data, whole = (make(**files, options={"validation_limit": limit}) for limit in (40, None))
    full, part = (each.splits["validation"] for each in (whole, data))
    expected = np.array(list(per_class(whole, "validation").values())) * 40 / len(full)
    np.testing.assert_allclose(list(per_class(data, "validation").values()), expected, atol=0.5)
    assert set(part.rows) < set(full.rows)
    assert abs(part.dataset.lengths.mean() - full.dataset.lengths.mean()) < 2
    again = make(**files, options={"validation_limit": 40, "seed": 5})
    assert again.splits["validation"].rows.tolist() == part.rows.tolist()
    for name in ("train", "test"):
        assert data.splits[name].rows.tolist() == whole.splits[name].rows.tolist()


@pytest.mark.parametrize(("limit", "missing"), [(20, 2), (46, 1), (93, 0), (None, 0)])
def test_classes_that_a_validation_limit_leaves_out_are_counted_in_a_warning(make, caplog, limit, missing):
    counts = {"alpha": 60, "beta": 24, "gamma": 8, "delta": 1}
    make(train=counts, validation=counts | {"gamma": 2, "delta": 1}, test=counts, options={"validation_limit": limit})
    found = [record.getMessage() for record in caplog.records if "loader.validation_limit" in record.getMessage()]
    assert len(found) == (missing > 0)
    assert all(f"{missing} of the 4 classes" in message for message in found)


MANY = {f"c{number}": 3 for number in range(100)}
"""Classes that are too small for a share in a sample."""


@pytest.mark.parametrize("large", [{}, {"alpha": 30}], ids=["all small", "one large"])
def test_a_train_limit_of_many_small_classes_takes_a_uniform_sample(make, large):
    given = {"train": MANY | large, "validation": MANY, "test": MANY}
    data = make(**given, options={"train_limit": 40})
    assert len(data.splits["train"]) == 40
    assert len(data.labels) > 20
    assert (
        make(**given, options={"train_limit": 40}).splits["train"].rows.tolist() == data.splits["train"].rows.tolist()
    )


def test_saved_splits_are_the_rows_of_the_source(make, tmp_path):
    data = make(train=COUNTS)
    data.save_splits(tmp_path / "splits.npz")
    with np.load(tmp_path / "splits.npz") as saved:
        assert set(saved) == {"train", "validation", "test"}
        for name, rows in saved.items():
            np.testing.assert_array_equal(rows, data.splits[name].rows)


def test_setting_up_twice_changes_nothing(make):
    data = make(train=COUNTS)
    before = data.splits["train"]
    data.prepare_data()
    data.setup("fit")
    assert data.splits["train"] is before


def test_setup_without_prepare_data_gives_the_same_splits(make, tokenizer):
    prepared = make(train=COUNTS)
    alone = TextDataModule(prepared.source, tokenizer, Tokenisation(16))
    alone.setup()
    for name, examples in prepared.splits.items():
        np.testing.assert_array_equal(alone.splits[name].rows, examples.rows)


def test_the_training_batches_are_what_the_sampler_draws(make):
    data = make(train=COUNTS, validation=COUNTS, test=COUNTS, options={"batch_size": 8})
    rows = np.concatenate([batch["rows"] for batch in data.train_dataloader()])
    np.testing.assert_array_equal(np.sort(rows), np.arange(93))
    data.sampler = lambda epoch: PowerSampler(1.0, 40)
    classes = np.concatenate([batch["targets"] for batch in data.train_dataloader()])
    np.testing.assert_array_equal(np.bincount(classes), 10)


def test_the_sampler_may_change_with_the_epoch(make):
    data = make(train=COUNTS, validation=COUNTS, test=COUNTS, options={"batch_size": 8})
    data.sampler = lambda epoch: PowerSampler(float(epoch), 40)
    loader = data.train_dataloader()
    drawn = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        drawn.append(np.bincount(np.concatenate([batch["targets"] for batch in loader])).tolist())
    assert drawn[0][0] > 20
    assert drawn[1] == [10] * 4


def test_embedding_gives_each_row_the_vector_of_its_own_text(make):
    data = make(train=COUNTS, test=COUNTS)
    before = {name: part.dataset[np.arange(len(part))] for name, part in data.splits.items()}
    # The tokens themselves, as long as all texts may be.
    data.embed(lambda store: np.stack([np.resize(store.tokens[a:b], 16) for a, b in pairwise(store.offsets)]))
    for name, part in data.splits.items():
        batch = part.dataset[np.arange(len(part))]
        tokens = before[name]["input_ids"], before[name]["attention_mask"]
        for vector, ids, mask in zip(batch["vectors"], *tokens, strict=True):
            assert vector.tolist() == np.resize(ids[mask.bool()], 16).tolist()
        assert torch.equal(batch["targets"], before[name]["targets"])
    assert "input_ids" not in next(iter(data.train_dataloader()))
    rows = np.concatenate([batch["rows"] for batch in data.test_dataloader()])
    assert sorted(rows) == list(range(93))
    assert data.evaluation_dataloader("train", limit=31).dataset[np.arange(3)]["vectors"].shape == (3, 16)


@pytest.mark.parametrize("eval_order", ["length", "stratified"])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluation_has_the_natural_distribution_with_any_sampler(make, eval_order, split):
    data = make(train=COUNTS, options={"eval_order": eval_order, "eval_batch_size": 4})
    data.sampler = lambda epoch: PowerSampler(1.0)
    loader = data.val_dataloader() if split == "validation" else data.test_dataloader()
    rows = np.concatenate([batch["rows"] for batch in loader])
    np.testing.assert_array_equal(np.sort(rows), np.arange(len(data.splits[split])))


def test_a_limited_evaluation_takes_a_stratified_sample(make):
    data = make(train=COUNTS, validation=COUNTS, test=COUNTS)
    loader = data.evaluation_dataloader("train", limit=31)
    classes = np.concatenate([batch["targets"] for batch in loader])
    assert np.bincount(classes, minlength=4).tolist() == [20, 8, 0, 3]
    assert len(data.evaluation_dataloader("train", limit=1000).dataset) == 93


@pytest.mark.parametrize("large", [{}, {"alpha": 30}], ids=["all small", "one large"])
def test_a_limited_evaluation_of_many_small_classes_takes_a_uniform_sample(make, large):
    data = make(train=MANY | large, validation=MANY, test=MANY)
    rows = [np.concatenate([b["rows"] for b in data.evaluation_dataloader("train", limit=40)]) for _ in range(2)]
    assert len(set(rows[0])) == 40
    np.testing.assert_array_equal(*rows)


def test_a_loaded_state_skips_trained_batches_once(make):
    data = make(train=COUNTS, validation=COUNTS, test=COUNTS, options={"batch_size": 8})
    whole = [batch["rows"].tolist() for batch in data.train_dataloader()]
    data.load_state_dict({"epoch": 0, "step": 5})
    loader = data.train_dataloader()
    assert [batch["rows"].tolist() for batch in loader] == whole[5:]
    assert [batch["rows"].tolist() for batch in loader] == whole
    assert [batch["rows"].tolist() for batch in data.train_dataloader()] == whole


def test_batching_does_not_use_the_global_random_generator(make):
    data = make(train=COUNTS)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(data.train_dataloader())
    assert torch.equal(torch.rand(3), expected)


@pytest.fixture
def make_tagged(tokenizer, tagged):
    """Return a set-up data module of texts with any number of labels: `make_tagged(source={...}, options={...})`."""

    def made(source=None, options=None) -> TextDataModule:
        files = {"train": str(tagged["train"]), "label": "labels"} | (source or {})
        data = TextDataModule(FileSource(**files), tokenizer, Tokenisation(16), **(options or {}))
        data.prepare_data()
        data.setup()
        return data

    return made


def test_multi_label_splits_keep_every_label_in_training(make_tagged):
    data = make_tagged()
    assert data.task == "multi_label"
    assert data.labels == ["alpha", "beta", "delta", "gamma"]
    assert sorted(np.concatenate([part.rows for part in data.splits.values()])) == list(range(1, 241))
    shares = {name: np.asarray(part.targets.mean(axis=0)).ravel() for name, part in data.splits.items()}
    np.testing.assert_allclose(shares["test"], shares["train"], atol=0.04)
    assert (data.counts > 0).all()


def test_texts_without_any_label_are_kept(make_tagged):
    data = make_tagged()
    assert (np.diff(data.splits["train"].targets.indptr) == 0).any()


def test_rows_of_a_group_stay_together(make_tagged, tagged):
    data = make_tagged({"group": "source"})
    sources = [json.loads(line)["source"] for line in tagged["train"].read_text().splitlines()]
    parts = [{sources[row - 1] for row in part.rows} for part in data.splits.values()]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 120
    assert min(map(len, parts)) > 5


def test_single_label_rows_of_a_group_stay_together(tokenizer, tmp_path):
    lines = [f"alpha{i % 8},{'alpha' if i // 2 % 5 else 'beta'},g{i // 2}" for i in range(200)]
    (tmp_path / "grouped.csv").write_text("\n".join(["text,label,source", *lines]))
    data = TextDataModule(FileSource(str(tmp_path / "grouped.csv"), group="source"), tokenizer, Tokenisation(16))
    data.setup()
    parts = [{(row - 1) // 2 for row in part.rows} for part in data.splits.values()]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 100
    assert np.bincount(data.splits["test"].targets).tolist() == [32, 8]


def test_a_label_only_in_test_is_removed_from_its_texts(make_tagged, tmp_path, caplog):
    test = tmp_path / "test.jsonl"
    test.write_text('{"text": "alpha1", "labels": ["alpha", "omega"]}\n{"text": "word1", "labels": ["omega"]}\n')
    data = make_tagged({"test": str(test)})
    assert data.splits["test"].targets.toarray().tolist() == [[True, False, False, False], [False] * 4]
    assert data.splits["test"].unseen == 2
    assert "labels that do not occur in training: 'omega' (2)" in caplog.text


def test_a_test_without_any_known_label_is_refused(make_tagged, tmp_path):
    test = tmp_path / "test.jsonl"
    test.write_text('{"text": "alpha1", "labels": ["omega"]}\n')
    with pytest.raises(UserError, match="no test row has a label that occurs in training"):
        make_tagged({"test": str(test)})


def test_instance_weights_apply_to_training_only_with_mean_1(tokenizer, tmp_path):
    lines = [f"alpha{i % 8},{'alpha' if i % 3 else 'beta'},{1 + i % 4}" for i in range(60)]
    (tmp_path / "weighted.csv").write_text("\n".join(["text,label,cost", *lines]))
    data = TextDataModule(FileSource(str(tmp_path / "weighted.csv"), weight="cost"), tokenizer, Tokenisation(16))
    data.setup()
    train = data.splits["train"]
    assert train.dataset.weights.mean() == pytest.approx(1)
    raw = np.array([1 + (row - 1) % 4 for row in train.rows])
    np.testing.assert_allclose(train.dataset.weights, raw / raw.mean())
    assert all("weights" in batch for batch in data.train_dataloader())
    assert not any("weights" in batch for batch in data.val_dataloader())


def test_a_limited_evaluation_of_several_labels_takes_a_stratified_sample(make_tagged):
    data = make_tagged()
    targets = np.concatenate([batch["targets"] for batch in data.evaluation_dataloader("train", limit=40)])
    assert len(targets) == pytest.approx(40, abs=4)
    train = data.splits["train"].targets
    np.testing.assert_allclose(targets.mean(axis=0), np.asarray(train.mean(axis=0)).ravel(), atol=0.08)


@pytest.mark.parametrize("choice", ["drop", "error"])
def test_on_bad_row_of_any_source_decides_about_classes_that_training_lacks(tokenizer, tmp_path, choice):
    train, test = (write_texts(tmp_path / f"{name}.csv", COUNTS) for name in ("train", "test"))
    test.write_text(test.read_text() + "omega1,omega\n")
    files = FileSource(str(train), test=str(test))

    class OwnSource:
        on_bad_row = choice

        def prepare(self) -> None: ...

        def load(self):
            return files.load()

    data = TextDataModule(OwnSource(), tokenizer, Tokenisation(16))
    if choice == "error":
        with pytest.raises(UserError, match="'omega'"):
            data.setup()
    else:
        data.setup()
        assert data.splits["test"].unseen == 1
