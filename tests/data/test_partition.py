"""Partition into training, validation and test; the data module's tests cover the splits themselves."""

import pytest

from counterpoise.data.partition import partition
from counterpoise.data.sources.files import FileSource
from counterpoise.errors import UserError
from refusals import user_error

FRACTIONS = {"test": 0.2, "validation": 0.1}


def loaded(tmp_path, labels, groups=None):
    rows = [f"text {row},{label},{groups[row] if groups else row}" for row, label in enumerate(labels)]
    (tmp_path / "a.csv").write_text("\n".join(["text,label,author", *rows]))
    return FileSource(str(tmp_path / "a.csv"), group="author" if groups else None).load()


@pytest.mark.parametrize(
    ("sizes", "split", "left"), [([100], "test", [100]), ([60, 40], "test", [60, 40]), ([99, 1], "validation", [99])]
)
def test_groups_that_cannot_be_divided_are_named_with_their_sizes(tmp_path, sizes, split, left):
    groups = [name for name, size in zip("xyz", sizes, strict=False) for _ in range(size)]
    error = user_error(partition, loaded(tmp_path, ["a", *["b"] * 98, "a"], groups), FRACTIONS, 0)
    counts = f"of {sum(left)} rows, data.group has {len(left)} groups, the largest with {left[0]} rows"
    assert counts in error
    assert f"data.{split}" in error


def test_parts_are_disjoint_and_cover_all_rows(tmp_path):
    found = partition(loaded(tmp_path, "ab" * 50), FRACTIONS, 0)
    rows = [row for _, part in found.parts.values() for row in part]
    assert list(found.parts) == ["train", "validation", "test"]
    assert sorted(rows) == list(range(100))
    assert found.targets is not None


def test_folds_take_turns_as_validation_split(tmp_path):
    splits = [partition(loaded(tmp_path, "ab" * 50), FRACTIONS, 0, folds=4, fold=fold).parts for fold in range(4)]
    validations = [set(parts["validation"][1]) for parts in splits]
    assert [len(each) for each in validations] == [20] * 4
    assert set.union(*validations) == set(range(100)) - set(splits[0]["test"][1])
    for parts, validation in zip(splits, validations, strict=True):
        assert list(parts["test"][1]) == list(splits[0]["test"][1])
        assert set(parts["train"][1]) == set.union(*validations) - validation


def test_folds_of_data_with_a_validation_split_are_refused(tmp_path):
    files = loaded(tmp_path, "ab" * 50)
    with pytest.raises(UserError, match=r"loader.folds=3 divides the training data, but .*a\.csv is a validation"):
        partition({**files, "validation": files["train"]}, FRACTIONS, 0, folds=3)


def test_a_class_outside_the_training_sample_leaves_the_vocabulary(tmp_path):
    found = partition(loaded(tmp_path, "ab" * 49 + "cc"), FRACTIONS, 0, train_limit=10)
    assert found.vocabulary.labels == ["a", "b"]
    assert found.targets is None
