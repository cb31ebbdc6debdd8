"""Source of texts and labels in a dataset of the Hugging Face Hub."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from counterpoise.data.arrow_columns import Column, build_lists, flatten_lists, is_list
from counterpoise.data.hub_access import no_access
from counterpoise.data.label_cleaning import clean_labels
from counterpoise.data.readers.files import require_columns
from counterpoise.data.table import Split, usable_rows
from counterpoise.data.table_format import TableFormat
from counterpoise.errors import UserError, one_line


@dataclass
class HubSource(TableFormat):
    """Splits of a dataset of the Hugging Face Hub, or of a local folder that `datasets` reads or saved.

    ClassLabel features, alone or in lists, are replaced by their names. Code of the dataset is not run. The settings of
    the columns are those of `TableFormat`.

    Args:
        path: Name of the dataset, or a local folder.
        name: Configuration of the dataset.
        train: Name of the training split.
        validation: Name of the validation split. A split called "validation" may be absent.
        test: Name of the test split. A split called "test" may be absent.
        revision: Branch, tag or commit.
    """

    path: str
    name: str | None = None
    train: str = "train"
    validation: str | None = None
    test: str | None = "test"
    revision: str | None = None

    def prepare(self) -> None:
        """Download the dataset into the cache of `datasets`."""
        self._dataset()

    def load(self) -> dict[str, Split]:
        """Return the usable rows of each split that exists.

        Raises:
            UserError: The dataset, a split or a column is missing, or a row is refused (`on_bad_row="error"`).
        """
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
        return clean_labels(self, splits)

    def _dataset(self) -> Mapping[str, Any]:
        """Return the datasets by the name of their split."""
        reason = None if Path(self.path).exists() else no_access()
        import datasets  # Imported here: it takes a second and only this source needs it.

        folder = Path(self.path)
        saved = (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()
        try:
            if saved:
                found = datasets.load_from_disk(self.path)
            else:
                found = datasets.load_dataset(self.path, self.name, revision=self.revision)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            problem = f"it is not in the local cache, and {reason}" if reason else one_line(error)
            raise UserError(f"cannot load the dataset {self.path} (data.path): {problem}") from error
        return {self.train: found} if isinstance(found, datasets.Dataset) else found


def _class_names(column: Column, feature: Any) -> Column:
    """Replace class numbers by names in a column whose feature is a ClassLabel or a list of them."""
    names = getattr(getattr(feature, "feature", feature), "names", None)
    if names is None:
        return column
    rows, codes = flatten_lists(column) if is_list(column.type) else (None, column)
    codes = pc.if_else(pc.less(codes, 0), None, codes)  # -1 is "not labelled"
    named = pc.take(pa.array(names), codes)
    return named if rows is None else build_lists(rows, named, len(column))
