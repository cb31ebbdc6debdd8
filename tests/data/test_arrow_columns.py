"""Columns of several chunks."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from counterpoise.data.arrow_columns import BLANK, NOT_UTF8, find_text_faults, only_numbers, take_rows


@pytest.mark.parametrize("cuts", [[], [1], [0, 3, 3, 7], list(range(1, 10))])
@pytest.mark.parametrize("rows", [[], [9], [3, 3, 0], [9, 8, 7, 1, 0, 2], list(range(10))])
def test_rows_are_taken_in_order_for_any_chunks(cuts, rows):
    values = [f"text {row}" for row in range(10)]
    edges = [0, *cuts, 10]
    column = pa.chunked_array([pa.array(values[a:b], pa.large_string()) for a, b in pairwise(edges)])
    taken = take_rows(column, np.array(rows, np.int64))
    assert taken.to_pylist() == [values[row] for row in rows]
    assert taken.type == pa.large_string()


def test_taking_a_few_rows_does_not_copy_the_column():
    column = pa.chunked_array([pa.array(["x" * 1000] * 1000, pa.large_string()) for _ in range(5)])
    before = pa.total_allocated_bytes()
    taken = take_rows(column, np.array([4999, 0]))
    assert pa.total_allocated_bytes() - before < 50_000
    assert len(taken) == 2


def test_each_text_has_its_fault_for_any_chunks():
    values = [b"good", b"", b"\xff", None, b" \t\n", "\u3000".encode(), "é".encode(), b"\xffbad", b" x "]
    faults = [0, BLANK, NOT_UTF8, BLANK, BLANK, BLANK, 0, NOT_UTF8, 0]
    array = pa.array(values, pa.large_binary())
    assert find_text_faults(array).tolist() == faults
    assert find_text_faults(pa.chunked_array([array[:2], array[2:2], array[2:]])).tolist() == faults
    assert find_text_faults(array).dtype == np.uint8


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1", "2.5", "-3,000", "4e-5", " 7 % "], True),
        (["1", "2 stars"], False),
        ([], False),
        (["1"] * 1500 + ["a"], False),
    ],
)
def test_a_column_of_numbers_is_recognised(texts, expected):
    assert only_numbers(pa.chunked_array([pa.array(texts, pa.large_string())])) == expected
