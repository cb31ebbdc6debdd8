"""The predictions of a split as a Parquet file, one row per example."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from counterpoise.atomic import replacing

# Rows per row group: the float64 probabilities exist for one group at a time.
_ROWS = 16_384


def write_predictions(
    path: str | Path,
    ids: Sequence[str],
    labels: Sequence[str],
    truth: np.ndarray | None,
    logits: np.ndarray,
    top_k: int = 5,
    full_up_to: int = 20,
) -> None:
    """Writes `id, label, prediction, probability` and further probabilities of N examples, C classes.

    labels: the vocabulary, C names; truth: int [N], or None; logits: float [N, C]. The column `label` is the
    name of the truth, null where the truth is unknown (None, or negative). With C <= `full_up_to` each class
    has a column `p:<label>`; above, `top_labels` and `top_probabilities` list the `top_k` most probable
    classes, first the most probable (at equal probability: first in the vocabulary). Probabilities are a
    softmax in float64, stored as float32. The file is replaced as a whole. Raises ValueError when the lengths
    do not belong together.
    """
    logits = np.asarray(logits)
    rows = len(ids)
    truth = np.full(rows, -1) if truth is None else np.asarray(truth)
    if logits.shape != (rows, len(labels)) or truth.shape != (rows,):
        raise ValueError(
            f"expected logits [{rows}, {len(labels)}] and truth [{rows}] "
            f"for {rows} ids and {len(labels)} labels, got {logits.shape}, {truth.shape}"
        )
    full = len(labels) <= full_up_to
    schema = _schema(labels, full)
    names = pa.array(labels, pa.string())
    with replacing(path) as unfinished, pq.ParquetWriter(unfinished, schema, compression="zstd") as writer:
        for start in range(0, rows, _ROWS):
            part = slice(start, start + _ROWS)
            probabilities = _softmax(logits[part])
            columns = [
                pa.array([str(i) for i in ids[part]], pa.string()),
                names.take(pa.array(truth[part], mask=truth[part] < 0)),
                names.take(pa.array(probabilities.argmax(axis=1))),
                _float32(probabilities.max(axis=1)),
            ]
            if full:
                columns += [_float32(column) for column in probabilities.T]
            else:
                top = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
                offsets = pa.array(np.arange(len(top) + 1) * top.shape[1], pa.int32())
                columns += [
                    pa.ListArray.from_arrays(offsets, names.take(pa.array(top.ravel()))),
                    pa.ListArray.from_arrays(offsets, _float32(np.take_along_axis(probabilities, top, axis=1).ravel())),
                ]
            writer.write_table(pa.table(columns, schema=schema))


def _schema(labels: Sequence[str], full: bool) -> pa.Schema:
    fields = [
        ("id", pa.string()),
        ("label", pa.string()),
        ("prediction", pa.string()),
        ("probability", pa.float32()),
    ]
    if full:
        return pa.schema([*fields, *((f"p:{label}", pa.float32()) for label in labels)])
    return pa.schema([*fields, ("top_labels", pa.list_(pa.string())), ("top_probabilities", pa.list_(pa.float32()))])


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Returns float64 probabilities [N, C] of logits [N, C]."""
    logits = logits.astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _float32(values: np.ndarray) -> pa.Array:
    return pa.array(values.astype(np.float32))
