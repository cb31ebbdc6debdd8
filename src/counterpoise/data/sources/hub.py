"""Texts and labels of a dataset of the Hugging Face Hub."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from counterpoise.data.arrow_columns import Column, build_lists, flatten_lists, is_list
from counterpoise.data.readers.files import one_line, require_columns
from counterpoise.data.table import Split, TableFormat, drop_rare_labels, usable_rows
from counterpoise.errors import UserError


@dataclass
class HubSource(TableFormat):
    """Splits of a dataset of the Hugging Face Hub, or of a folder that `datasets` reads or has saved.

    `train`, `validation` and `test` are the dataset's names for them; a validation split called "validation"
    and a test split called "test" may be absent. `name` is the configuration of the dataset, `revision` a
    branch, tag or commit. A ClassLabel, alone or in lists, gives its names. No code of the dataset is run.
    """

    path: str
    name: str | None = None
    train: str = "train"
    validation: str | None = None
    test: str | None = "test"
    revision: str | None = None

    def prepare(self) -> None:
        """Downloads the dataset into the cache of `datasets`."""
        self._dataset()

    def load(self) -> dict[str, Split]:
        """Returns the splits that there are, among "train", "validation" and "test"; raises UserError."""
        self.check()
        dataset = self._dataset()
        splits = {}
        for name, key in (("train", self.train), ("validation", self.validation), ("test", self.test)):
            if not key or (key == name != "train" and key not in dataset):
                continue
            if key not in dataset:
                raise UserError(f"{self.path} has no split {key!r} (data.{name}); it has {', '.join(dataset)}")
            file, columns = f"{self.path}/{key}", self.needed(name)
            require_columns(columns, dataset[key].column_names, file)
            table = dataset[key].select_columns(columns).with_format("arrow")[:]
            if isinstance(self.label, str):
                named = _class_names(table[self.label], dataset[key].features[self.label])
                table = table.set_column(columns.index(self.label), self.label, named)
            splits[name] = usable_rows(self, name, file, table, file)
        return drop_rare_labels(splits, self.min_count)

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


def _class_names(column: Column, feature: Any) -> Column:
    """Returns the names of the numbers in a column whose feature is a ClassLabel, or lists of them."""
    names = getattr(getattr(feature, "feature", feature), "names", None)
    if names is None:
        return column
    rows, codes = flatten_lists(column) if is_list(column.type) else (None, column)
    codes = pc.if_else(pc.less(codes, 0), None, codes)  # -1 is "not labelled"
    named = pc.take(pa.array(names), codes)
    return named if rows is None else build_lists(rows, named, len(column))
