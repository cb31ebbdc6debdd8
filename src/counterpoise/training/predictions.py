"""Write predictions as tables with one row per text, at once or in blocks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse
from scipy.special import expit, softmax

from counterpoise.data.table_writers import Stream, table_writer
from counterpoise.errors import UserError

MAX_ROWS = 16_384
"""Maximum number of rows per row group."""
MAX_CELLS = 2**22
"""Maximum number of probabilities (rows times classes) per row group. One group is in memory at a time, as float64."""

REASON = pa.field("not_predicted", pa.string())
"""Why a text has no prediction, such as "blank text"; null if it has one."""

_NAMES, _NUMBERS = pa.list_(pa.string()), pa.list_(pa.float32())


def write_predictions(
    path: str | Path,
    ids: Sequence[str],
    labels: Sequence[str],
    truth: np.ndarray | None,
    logits: np.ndarray,
    top_k: int = 5,
    full_up_to: int = 20,
    *,
    calibrated: np.ndarray | None = None,
    least_cost: np.ndarray | None = None,
) -> None:
    """Write predictions of single-label data to a file and replace an existing file atomically.

    Columns: `id`, `label` (true class, null if unknown), `prediction`, `probability` of the prediction, `least_cost`
    (if given), and either one column `p:<class>` per class or the lists `top_labels` and `top_probabilities`.
    Probabilities are computed in float64 and stored as float32.

    Args:
        path: The file to write. Its suffix selects the format, see `table_writer`.
        ids: Ids of the N texts.
        labels: Names of the C classes.
        truth: True classes, int [N], negative if unknown. None: all are unknown.
        logits: Logits, float [N, C]. The prediction is the class with the largest logit.
        top_k: Number of most probable classes in the lists. Ties are in the order of `labels`. Defaults to 5.
        full_up_to: Largest number of classes for which each class has its own column. Defaults to 20.
        calibrated: Calibrated logits, float [N, C], for the probabilities. Defaults to `logits`.
        least_cost: Classes with the least expected cost, int [N]. Defaults to None: no such column.

    Raises:
        ValueError: The shapes do not match.
    """
    with predictions_writer(path, labels, top_k, full_up_to, least_cost=least_cost is not None) as write:
        write(ids, truth, logits, calibrated, least_cost)


@contextmanager
def predictions_writer(
    path: str | Path | Stream,
    labels: Sequence[str],
    top_k: int = 5,
    full_up_to: int = 20,
    *,
    least_cost: bool = False,
    most_probable: bool = False,
    reasons: bool = False,
    kept: pa.Schema | None = None,
    escape_formulas: bool = False,
) -> Iterator[Callable[..., None]]:
    """Open a file for single-label predictions that are written in blocks.

    The file is created or replaced when the `with` block ends without an error.

    Args:
        path: The file or stream to write, see `table_writer`.
        labels: Names of the C classes.
        top_k: See `write_predictions`.
        full_up_to: See `write_predictions`.
        least_cost: Whether the file has the column `least_cost`.
        most_probable: Whether the file has the column `most_probable`, the class with the largest calibrated
            probability. Calibration may change which one that is; the prediction is of the uncalibrated logits.
        reasons: Whether the file has the column `not_predicted`.
        kept: Schema of further columns, which come last. Defaults to None: there are none.
        escape_formulas: See `table_writer`.

    Yields:
        write(ids, truth, logits, calibrated=None, least_cost=None, reasons=None, kept=None) with the arguments of
        `write_predictions`. `reasons` is string [N]: rows with a reason have no prediction and no probabilities.
        `kept` is the table of the further columns, N rows.
    """
    full, names = len(labels) <= full_up_to, pa.array(labels, pa.string())
    decisions = ["most_probable"] * most_probable + ["least_cost"] * least_cost
    schema = _schema(labels, full, decisions)

    def write(
        ids: Sequence[str],
        truth: np.ndarray | None,
        logits: np.ndarray,
        calibrated: np.ndarray | None = None,
        cheapest: np.ndarray | None = None,
        why: pa.Array | None = None,
        beside: pa.Table | None = None,
    ) -> None:
        logits, rows = np.asarray(logits), len(ids)
        truth = np.full(rows, -1) if truth is None else np.asarray(truth)
        calibrated = logits if calibrated is None else np.asarray(calibrated)
        if {logits.shape, calibrated.shape} != {(rows, len(labels))} or truth.shape != (rows,):
            raise ValueError(
                f"expected logits [{rows}, {len(labels)}] and truth [{rows}] "
                f"for {rows} ids and {len(labels)} labels, got {logits.shape}, {calibrated.shape}, {truth.shape}"
            )
        if least_cost and (cheapest is None or np.shape(cheapest) != (rows,)):
            got = None if cheapest is None else np.shape(cheapest)
            raise ValueError(f"expected least_cost [{rows}] for {rows} ids, got {got}")
        for part in _row_groups(rows, len(labels)):
            probabilities = softmax(calibrated[part].astype(np.float64), axis=1)
            decided = logits[part].argmax(axis=1)
            columns = [
                pa.array([str(i) for i in ids[part]], pa.string()),
                names.take(pa.array(truth[part], mask=truth[part] < 0)),
                names.take(pa.array(decided)),
                _float32(probabilities[np.arange(len(decided)), decided]),
            ]
            if most_probable:
                columns.append(names.take(pa.array(most_probable_class(probabilities, decided))))
            if cheapest is not None:
                columns.append(names.take(pa.array(cheapest[part])))
            if full:
                columns += [_float32(column) for column in probabilities.T]
            else:
                columns += _ranked(probabilities, _top(probabilities, top_k), names)
            write_table(_completed(pa.table(columns, schema=schema), why, beside, part))

    whole = _whole_schema(schema, reasons, kept)
    with table_writer(path, whole, escape_formulas=escape_formulas) as write_table:
        yield write


def most_probable_class(scores: np.ndarray, decided: np.ndarray) -> np.ndarray:
    """Return the class with the largest score, int [N]; of equal scores the decided class.

    Args:
        scores: Float [N, C].
        decided: Decided classes, int [N].
    """
    return np.where(scores[np.arange(len(decided)), decided] == scores.max(axis=1), decided, scores.argmax(axis=1))


def write_multilabel_predictions(
    path: str | Path,
    ids: Sequence[str],
    labels: Sequence[str],
    targets: sparse.csr_matrix | None,
    logits: np.ndarray,
    decided: np.ndarray,
    top_k: int = 5,
) -> None:
    """Write predictions of multi-label data to a file and replace an existing file atomically.

    Columns: `id` and the lists `labels` (true labels in the order of the vocabulary, null if unknown), `predictions`,
    their `probabilities`, `top_labels` and `top_probabilities`. The last four lists are sorted by probability, with
    ties in the order of `labels`. Probabilities are computed in float64 and stored as float32.

    Args:
        path: The file or stream to write, see `table_writer`.
        ids: Ids of the N texts.
        labels: Names of the C labels.
        targets: True labels, bool csr [N, C]. None: unknown.
        logits: Logits, float [N, C].
        decided: Predicted labels, bool [N, C].
        top_k: Number of most probable labels in `top_labels`, predicted or not. Defaults to 5.

    Raises:
        ValueError: The shapes do not match.
    """
    with multilabel_predictions_writer(path, labels, top_k) as write:
        write(ids, targets, logits, decided)


@contextmanager
def multilabel_predictions_writer(
    path: str | Path | Stream,
    labels: Sequence[str],
    top_k: int = 5,
    *,
    reasons: bool = False,
    kept: pa.Schema | None = None,
    escape_formulas: bool = False,
) -> Iterator[Callable[..., None]]:
    """Open a file for multi-label predictions that are written in blocks.

    The file is created or replaced when the `with` block ends without an error.

    Args:
        path: The file or stream to write, see `table_writer`.
        labels: Names of the C labels.
        top_k: See `write_multilabel_predictions`.
        reasons: See `predictions_writer`.
        kept: See `predictions_writer`.
        escape_formulas: See `table_writer`.

    Yields:
        write(ids, targets, logits, decided, reasons=None, kept=None) with the arguments of
        `write_multilabel_predictions`.
    """
    names = pa.array(labels, pa.string())
    columns = ("labels", "predictions", "probabilities", "top_labels", "top_probabilities")
    types = (_NAMES, _NAMES, _NUMBERS, _NAMES, _NUMBERS)
    schema = pa.schema([("id", pa.string()), *zip(columns, types, strict=True)])

    def write(
        ids: Sequence[str],
        targets: sparse.csr_matrix | None,
        logits: np.ndarray,
        decided: np.ndarray,
        why: pa.Array | None = None,
        beside: pa.Table | None = None,
    ) -> None:
        logits, decided = np.asarray(logits), np.asarray(decided, bool)
        shape = (len(ids), len(labels))
        shapes = [each.shape for each in (logits, decided, targets) if each is not None]
        if any(each != shape for each in shapes):
            raise ValueError(
                f"expected logits, decided and targets {[*shape]} for {shape[0]} ids and {shape[1]} labels, "
                f"got {', '.join(map(str, shapes))}"
            )
        for part in _row_groups(*shape):
            texts = [str(i) for i in ids[part]]
            true: pa.Array = pa.nulls(len(texts), _NAMES)
            if targets is not None:
                own = targets[part]
                true = pa.ListArray.from_arrays(pa.array(own.indptr, pa.int32()), names.take(pa.array(own.indices)))
            ranked = [
                _ranked(logits[part], cells, names, expit) for cells in (decided[part], _top(logits[part], top_k))
            ]
            table = pa.table([pa.array(texts, pa.string()), true, *ranked[0], *ranked[1]], schema=schema)
            write_table(_completed(table, why, beside, part))

    whole = _whole_schema(schema, reasons, kept)
    with table_writer(path, whole, escape_formulas=escape_formulas) as write_table:
        yield write


def _whole_schema(schema: pa.Schema, reasons: bool, kept: pa.Schema | None) -> pa.Schema:
    """Return the schema of a file: that of the predictions, the column of reasons, and the further columns.

    Raises:
        UserError: Two columns have the same name.
    """
    whole = pa.schema([*schema, *([REASON] if reasons else []), *(kept or [])])
    for name in kept.names if kept else []:
        if whole.names.count(name) > 1:
            raise UserError(
                f"two columns of the output would have the name {name!r}: put a prefix in front of the names of the "
                "kept columns, such as --keep-prefix input_"
            )
    return whole


def _completed(table: pa.Table, reasons: pa.Array | None, kept: pa.Table | None, part: slice) -> pa.Table:
    """Return the table with null instead of predictions where there is a reason, the reasons, and the kept columns."""
    if reasons is not None:
        reasons = reasons[part.start : part.stop]
        for place, field in enumerate(table.schema):
            if field.name not in ("id", "label", "labels"):
                values = table.column(place).combine_chunks()
                valid = pc.if_else(pc.is_valid(reasons), pa.scalar(None, field.type), values)
                table = table.set_column(place, field, valid)
        table = table.append_column(REASON, reasons)
    if kept is not None:
        for field, values in zip(kept.schema, kept.slice(part.start, len(table)).columns, strict=True):
            table = table.append_column(field, values)
    return table


def _row_groups(rows: int, labels: int) -> list[slice]:
    """Return the rows of each row group."""
    size = max(1, min(MAX_ROWS, MAX_CELLS // max(labels, 1)))
    return [slice(start, start + size) for start in range(0, rows, size)]


def _top(scores: np.ndarray, k: int) -> np.ndarray:
    """Return a mask of the k highest scores of each row, bool [N, C]. Of ties the first are marked; NaN is lowest."""
    k = min(k, scores.shape[1])
    if not k:
        return np.zeros(scores.shape, bool)
    scores = np.where(np.isnan(scores), -np.inf, scores)
    kth = np.partition(scores, -k, axis=1)[:, -k, None]
    cells = scores >= kth
    tied = np.flatnonzero(cells.sum(axis=1) > k)
    above, equal = scores[tied] > kth[tied], scores[tied] == kth[tied]
    cells[tied] = above | (equal & (np.cumsum(equal, axis=1) <= k - above.sum(axis=1, keepdims=True)))
    return cells


def _ranked(
    scores: np.ndarray,
    cells: np.ndarray,
    names: pa.Array,
    probability: Callable[[np.ndarray], np.ndarray] = lambda scores: scores,
) -> tuple[pa.ListArray, pa.ListArray]:
    """Return names and probabilities of the marked cells (bool [N, C]) of each row, highest score first."""
    rows, columns = np.nonzero(cells)
    values = scores[rows, columns].astype(np.float64)
    order = np.lexsort((-values, rows))
    offsets = pa.array(np.concatenate([[0], np.cumsum(cells.sum(axis=1))]), pa.int32())
    return (
        pa.ListArray.from_arrays(offsets, names.take(pa.array(columns[order]))),
        pa.ListArray.from_arrays(offsets, _float32(probability(values[order]))),
    )


def _schema(labels: Sequence[str], full: bool, decisions: Sequence[str]) -> pa.Schema:
    fields = [
        ("id", pa.string()),
        ("label", pa.string()),
        ("prediction", pa.string()),
        ("probability", pa.float32()),
        *((name, pa.string()) for name in decisions),
    ]
    if full:
        return pa.schema([*fields, *((f"p:{label}", pa.float32()) for label in labels)])
    return pa.schema([*fields, ("top_labels", _NAMES), ("top_probabilities", _NUMBERS)])


def _float32(values: np.ndarray) -> pa.Array:
    return pa.array(values.astype(np.float32))
