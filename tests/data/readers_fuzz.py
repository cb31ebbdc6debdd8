"""Generate odd files of every format and read them. A crash leaves the number of the file in the file `seed`."""

import csv
import gzip
import io
import json
import random
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from counterpoise.data import readers
from counterpoise.data.sources.files import FileSource
from counterpoise.errors import UserError

CELLS = ["a", "", "é", "两", "\0", "\ufeff", '"', "\\", "\r", "x" * 300, "=1", "null", "1e400", "9" * 30, "[1]", "{"]
VALUES = [None, True, 1, 2**70, -0.5, 1e308, "a", "\ud800", "\0", [], [None], [[1]], {}, {"text": {}}, "x" * 300]
PIECES = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"null",
    b'"',
    b"\\",
    b"\\u",
    b"\n",
    b"\r",
    b"\0",
    b"\xff",
    b",",
    b"1e999",
    b"\xef\xbb\xbf",
]


def content(chance: random.Random) -> tuple[str, bytes]:
    """Return the name and the content of a file."""
    kind = chance.choice(["csv", "tsv", "jsonl", "json", "parquet"])
    rows = [[chance.choice(CELLS), chance.choice(CELLS)] for _ in range(chance.randrange(12))]
    if kind in ("csv", "tsv"):
        out = io.StringIO(newline="")
        writer = csv.writer(out, delimiter="," if kind == "csv" else "\t", quoting=chance.choice([0, 1]))
        writer.writerows([["text", "label"], *rows])
        data = out.getvalue().encode("utf-8", "surrogatepass")
    elif kind == "parquet":
        sink = io.BytesIO()
        texts, labels = [row[0] for row in rows], [row[1] for row in rows]
        pq.write_table(pa.table({"text": pa.array(texts, pa.string()), "label": pa.array(labels, pa.string())}), sink)
        data = sink.getvalue()
    else:
        records = [dict.fromkeys(["text", "label"], chance.choice(VALUES)) for _ in rows]
        for record in records:
            record[chance.choice(["text", "label", "more"])] = chance.choice(VALUES)
        lines = [json.dumps(chance.choice([record, chance.choice(VALUES)])) for record in records]
        data = (f"[{','.join(lines)}]" if kind == "json" else "\n".join(lines)).encode()
    changed = bytearray(data)
    for _ in range(chance.choice([0, 0, 1, 3, 20])):
        place = chance.randrange(len(changed) + 1)
        if chance.random() < 0.5:
            changed[place:place] = chance.choice(PIECES)
        else:
            del changed[place : place + chance.randrange(1, 9)]
    if chance.random() < 0.1:
        return f"a.{kind}.gz" if kind != "parquet" else "a.parquet", gzip.compress(bytes(changed))
    return f"a.{kind}", bytes(changed)


def main(folder: Path, first: int, count: int) -> None:
    """Read the files of `count` seeds. Errors of users are expected; others end the process."""
    for seed in range(first, first + count):
        chance = random.Random(seed)
        name, data = content(chance)
        (folder / name).write_bytes(data)
        readers.files.BLOCK = chance.choice([64, 1000, 2**22])
        readers.MAX_IN_MEMORY = chance.choice([0, 2**25])
        (folder / "seed").write_text(str(seed))
        message = ""
        try:
            FileSource(str(folder / name), max_dropped=1).load()
        except UserError as error:
            message = str(error)
        if "\n" in message:
            raise ValueError(f"several lines: {message}")
    print("done")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
