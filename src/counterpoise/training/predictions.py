"""Predictions as a Parquet file, one row per example: those of a split, or of new texts a part at a time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse
from scipy.special import expit

from counterpoise.io import atomic_path

# Rows per row group, fewer where there are very many labels: the float64 probabilities exist for one group at a time.
_ROWS = 16_384
_CELLS = 2**22
_LISTS = pa.list_(pa.string()), pa.list_(pa.float32())


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
    """Writes `id, label, prediction, probability` and further probabilities of N examples, C classes.

    labels: the vocabulary, C names; truth: int [N], or None; logits: float [N, C]. The column `label` is the
    name of the truth, null where the truth is unknown (None, or negative). With C <= `full_up_to` each class
    has a column `p:<label>`; above, `top_labels` and `top_probabilities` list the `top_k` most probable
    classes, first the most probable (at equal probability: first in the vocabulary). Probabilities are a
    softmax in float64, stored as float32. The file is replaced as a whole. Raises ValueError when the lengths
    do not belong together.

    calibrated: logits, float [N, C], of which the probabilities are to be instead; the prediction, the most probable
    class, remains that of `logits`, with its calibrated probability. least_cost: int [N], the classes that a column
    `least_cost`, after the probability, names.
    """
    with predictions_writer(path, labels, top_k, full_up_to, least_cost=least_cost is not None) as write:
        write(ids, truth, logits, calibrated, least_cost)


@contextmanager
def predictions_writer(
    path: str | Path, labels: Sequence[str], top_k: int = 5, full_up_to: int = 20, *, least_cost: bool = False
) -> Iterator[Callable[..., None]]:
    """Yields write(ids, truth, logits, calibrated=None, least_cost=None), which adds examples to the file.

    The arguments are those of `write_predictions`, of some of the examples at a time. least_cost: whether there is
    such a column. The file appears, or is replaced, when the block ends without an error.
    """
    full, names = len(labels) <= full_up_to, pa.array(labels, pa.string())
    schema = _schema(labels, full, least_cost)

    def write(
        ids: Sequence[str],
        truth: np.ndarray | None,
        logits: np.ndarray,
        calibrated: np.ndarray | None = None,
        cheapest: np.ndarray | None = None,
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
        for part in _parts(rows, len(labels)):
            probabilities = _softmax(calibrated[part])
            decided = logits[part].argmax(axis=1)
            columns = [
                pa.array([str(i) for i in ids[part]], pa.string()),
                names.take(pa.array(truth[part], mask=truth[part] < 0)),
                names.take(pa.array(decided)),
                _float32(probabilities[np.arange(len(decided)), decided]),
            ]
            if cheapest is not None:
                columns.append(names.take(pa.array(cheapest[part])))
            if full:
                columns += [_float32(column) for column in probabilities.T]
            else:
                columns += _ranked(probabilities, _top(probabilities, top_k), names)
            writer.write_table(pa.table(columns, schema=schema))

    with atomic_path(path) as unfinished, pq.ParquetWriter(unfinished, schema, compression="zstd") as writer:
        yield write


def write_multilabel_predictions(
    path: str | Path,
    ids: Sequence[str],
    labels: Sequence[str],
    targets: sparse.csr_matrix | None,
    logits: np.ndarray,
    decided: np.ndarray,
    top_k: int = 5,
) -> None:
    """Writes `id, labels, predictions, probabilities, top_labels, top_probabilities` of N texts, C labels.

    labels: the vocabulary, C names; targets: csr [N, C] of bool, or None; logits: float [N, C]; decided: bool [N, C].
    All columns but the id are lists. `labels` are the true ones in the order of the vocabulary, null where targets are
    None; `predictions` the decided ones with their `probabilities`, the most probable first; `top_labels` and
    `top_probabilities` the `top_k` most probable, decided or not (at equal logits: first in the vocabulary).
    Probabilities are a sigmoid in float64, stored as float32. The file is replaced as a whole. Raises ValueError when
    the lengths do not belong together.
    """
    with multilabel_predictions_writer(path, labels, top_k) as write:
        write(ids, targets, logits, decided)


@contextmanager
def multilabel_predictions_writer(
    path: str | Path, labels: Sequence[str], top_k: int = 5
) -> Iterator[Callable[..., None]]:
    """Yields write(ids, targets, logits, decided), which adds texts to the file.

    The arguments are those of `write_multilabel_predictions`, of some of the texts at a time. The file appears, or is
    replaced, when the block ends without an error.
    """
    names = pa.array(labels, pa.string())
    columns = ("labels", "predictions", "probabilities", "top_labels", "top_probabilities")
    types = (_LISTS[0], *_LISTS, *_LISTS)
    schema = pa.schema([("id", pa.string()), *zip(columns, types, strict=True)])

    def write(ids: Sequence[str], targets: sparse.csr_matrix | None, logits: np.ndarray, decided: np.ndarray) -> None:
        logits, decided = np.asarray(logits), np.asarray(decided, bool)
        shape = (len(ids), len(labels))
        shapes = [each.shape for each in (logits, decided, targets) if each is not None]
        if any(each != shape for each in shapes):
            raise ValueError(
                f"expected logits, decided and targets {[*shape]} for {shape[0]} ids and {shape[1]} labels, "
                f"got {', '.join(map(str, shapes))}"
            )
        for part in _parts(*shape):
            texts = [str(i) for i in ids[part]]
            true: pa.Array = pa.nulls(len(texts), _LISTS[0])
            if targets is not None:
                own = targets[part]
                true = pa.ListArray.from_arrays(pa.array(own.indptr, pa.int32()), names.take(pa.array(own.indices)))
            ranked = [
                _ranked(logits[part], cells, names, expit) for cells in (decided[part], _top(logits[part], top_k))
            ]
            writer.write_table(pa.table([pa.array(texts, pa.string()), true, *ranked[0], *ranked[1]], schema=schema))

    with atomic_path(path) as unfinished, pq.ParquetWriter(unfinished, schema, compression="zstd") as writer:
        yield write


def _parts(rows: int, labels: int) -> list[slice]:
    """Returns the rows of each row group."""
    size = max(1, min(_ROWS, _CELLS // max(labels, 1)))
    return [slice(start, start + size) for start in range(0, rows, size)]


def _top(scores: np.ndarray, k: int) -> np.ndarray:
    """Returns bool [N, C]: the k highest scores of each row, of equal ones the first; NaN is the lowest."""
    k = min(k, scores.shape[1])
    if not k:
        return np.zeros(scores.shape, bool)
    scores = np.where(np.isnan(scores), -np.inf, scores)
    least = np.partition(scores, -k, axis=1)[:, -k, None]
    cells = scores >= least
    tied = np.flatnonzero(cells.sum(axis=1) > k)
    above, equal = scores[tied] > least[tied], scores[tied] == least[tied]
    cells[tied] = above | (equal & (np.cumsum(equal, axis=1) <= k - above.sum(axis=1, keepdims=True)))
    return cells


def _ranked(
    scores: np.ndarray,
    cells: np.ndarray,
    names: pa.Array,
    probability: Callable[[np.ndarray], np.ndarray] = lambda scores: scores,
) -> tuple[pa.ListArray, pa.ListArray]:
    """Returns the names of the cells that are set in bool [N, C] and their probabilities, the highest score first."""
    rows, columns = np.nonzero(cells)
    values = scores[rows, columns].astype(np.float64)
    order = np.lexsort((-values, rows))
    offsets = pa.array(np.concatenate([[0], np.cumsum(cells.sum(axis=1))]), pa.int32())
    return (
        pa.ListArray.from_arrays(offsets, names.take(pa.array(columns[order]))),
        pa.ListArray.from_arrays(offsets, _float32(probability(values[order]))),
    )


def _schema(labels: Sequence[str], full: bool, least_cost: bool) -> pa.Schema:
    fields = [
        ("id", pa.string()),
        ("label", pa.string()),
        ("prediction", pa.string()),
        ("probability", pa.float32()),
        *([("least_cost", pa.string())] if least_cost else []),
    ]
    if full:
        return pa.schema([*fields, *((f"p:{label}", pa.float32()) for label in labels)])
    return pa.schema([*fields, ("top_labels", _LISTS[0]), ("top_probabilities", _LISTS[1])])


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Returns float64 probabilities [N, C] of logits [N, C]."""
    logits = logits.astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _float32(values: np.ndarray) -> pa.Array:
    return pa.array(values.astype(np.float32))
