"""Generated files of every format and dialect, sound or with one defect, are read exactly or refused by their place."""

import csv
import gzip
import io
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import refused
from counterpoise.data import readers
from counterpoise.data.sources.files import FileSource

PIECES = [
    "word",
    " ",
    ", ",
    "; ",
    "\t",
    '"',
    "'",
    "\n",
    "\r\n",
    "\\",
    "é",
    "两",
    "😀",
    "=1+1",
    "null",
    "{",
    "]",
    "0x1",
    "-",
]
KINDS = ["csv", "tsv", "jsonl", "json", "parquet"]
DEFECTS = {
    "none": KINDS,
    "blank texts": KINDS,
    "no label": KINDS,
    "no column": KINDS,
    "a column twice": KINDS,
    "cut": ["json", "parquet"],
    "cut gzip": ["csv", "tsv", "jsonl", "json"],
    "empty": KINDS,
    "an unclosed quote": ["csv", "tsv"],
    "a line that is no object": ["jsonl", "json"],
}
"""Defects by the kinds of files that can have them."""


class Generated:
    """A file, the rows that it holds, and the place that a refusal must name; None if it is to be read."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        # Every pair of kind and defect comes up.
        pairs = [(kind, defect) for defect, kinds in DEFECTS.items() for kind in kinds]
        self.kind, self.defect = pairs[seed % len(pairs)]
        labels = ["spam", "ham", "Ünïcode", "7 a"]
        self.rows = [(self._text(), labels[row % 4]) for row in range(self.chance.randrange(40, 90))]
        self.place: str | None = None
        self.path = folder / f"a.{self.kind}"
        data = self._parquet() if self.kind == "parquet" else self._encoded(self._written())
        if self.defect == "cut":
            data, self.place = data[: len(data) * 2 // 3], "a."
        if self.defect == "empty":
            data, self.place = b"", "a."
        compressed = self.defect == "cut gzip" or self.chance.random() < 0.3
        if compressed and self.kind != "parquet" and data:
            self.path, data = folder / f"a.{self.kind}.gz", gzip.compress(data)
            if self.defect == "cut gzip":
                data, self.place = data[: len(data) * 2 // 3], "a."
        self.path.write_bytes(data)

    def _text(self) -> str:
        pieces = [*PIECES, "\n\n"] if self.kind != "jsonl" else PIECES
        return f".{''.join(self.chance.choices(pieces, k=self.chance.randrange(1, 12)))}."

    def _records(self) -> tuple[list[str], list[list]]:
        """Return the names of the columns and the cells, with the defect."""
        header, rows = ["text", "label"], [list(row) for row in self.rows]
        damaged = set(self.chance.sample(range(len(rows)), 2))
        if self.defect in ("blank texts", "no label"):
            for row in damaged:
                rows[row][self.defect == "no label"] = self.chance.choice(["", None, " "])
            self.rows = [row for number, row in enumerate(self.rows) if number not in damaged]
        if self.defect == "no column":
            header[self.chance.randrange(2)], self.place = "other", "column"
        for name in self.chance.sample(["id", "note", "x y"], self.chance.randrange(3)):
            header.append(name)
            rows = [[*row, str(number)] for number, row in enumerate(rows)]
        if self.defect == "a column twice":
            header.append(self.chance.choice(["text", "label"]))
            rows, self.place = [[*row, "again"] for row in rows], header[-1]
        order = self.chance.sample(range(len(header)), len(header))
        return [header[place] for place in order], [[row[place] for place in order] for row in rows]

    def _written(self) -> str:
        header, rows = self._records()
        if self.kind in ("csv", "tsv"):
            return self._csv(header, rows)
        ascii_only = self.chance.random() < 0.5
        lines = [self._object(header, row, ascii_only) for row in rows]
        if self.defect == "a line that is no object":
            row = self.chance.randrange(len(lines))
            lines[row], self.place = self.chance.choice(["null", "3", "[1]", '"x"']), f"row {row + 1}"
        if self.kind == "json":
            between = self.chance.choice([",", ",\n", " , "])
            return f"[{between.join(lines)}]"
        return "\n".join(lines) + self.chance.choice(["", "\n", "\n\n"])

    def _object(self, header: list[str], row: list, ascii_only: bool) -> str:
        pairs = zip(header, row, strict=True)
        cells = [f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=ascii_only)}" for name, value in pairs]
        return f"{{{', '.join(cells)}}}"

    def _csv(self, header: list[str], rows: list[list]) -> str:
        out = io.StringIO(newline="")
        end = self.chance.choice(["\n", "\r\n"])
        quoting = self.chance.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
        delimiter = "\t" if self.kind == "tsv" else self.chance.choice([",", ";"])
        if delimiter == ";":
            out.write(f"sep=;{end}")
        writer = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting)
        writer.writerow(header)
        if self.defect == "an unclosed quote":
            # One line per row, so that the line is known.
            rows = [
                ["plain" if cell == text else cell for cell in row]
                for row, (text, _) in zip(rows, self.rows, strict=True)
            ]
            row = self.chance.randrange(len(rows) - 1)
            self.place = f"line {row + 2 + (delimiter == ';')}"
            for number, cells in enumerate(rows):
                line = delimiter.join(cells)
                out.write(line.replace("plain", '"plain') + end if number == row else line + end)
        else:
            writer.writerows(rows)
        return out.getvalue()

    def _encoded(self, text: str) -> bytes:
        encodings = ["utf-8", "utf-8-sig"] + ["utf-16"] * (self.kind in ("csv", "tsv"))
        return text.encode(self.chance.choice(encodings))

    def _parquet(self) -> bytes:
        header, rows = self._records()
        kind = self.chance.choice([pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
        columns = [pa.array([row[place] for row in rows], pa.string()).cast(kind) for place in range(len(header))]
        sink = io.BytesIO()
        table = pa.Table.from_arrays(columns, names=header)
        pq.write_table(table, sink, row_group_size=self.chance.choice([7, 1000]))
        return sink.getvalue()


@pytest.mark.parametrize("seed", [*range(45), *(pytest.param(n, marks=pytest.mark.soak) for n in range(45, 345))])
def test_a_generated_file_is_read_exactly_or_refused_by_its_place(seed, tmp_path, monkeypatch):
    file = Generated(tmp_path, seed)
    monkeypatch.setattr(readers.files, "BLOCK", file.chance.choice([300, 2**22]))
    source = FileSource(str(file.path), max_dropped=0.3)
    if file.place is not None:
        assert file.place in refused(source)
        return
    split = source.load()["train"]
    assert list(zip(split.texts.to_pylist(), split.labels.to_pylist(), strict=True)) == file.rows
