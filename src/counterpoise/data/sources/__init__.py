"""Data sources: where texts and labels come from."""

from typing import Protocol, runtime_checkable

from counterpoise.data.table import Split


@runtime_checkable
class Source(Protocol):
    """Provider of the splits of a dataset.

    Attributes:
        on_bad_row: "drop" or "error": what happens to rows that cannot be used, including validation and test rows
            whose class or label does not occur in training.
    """

    on_bad_row: str

    def prepare(self) -> None:
        """Download what is needed. Called once per machine."""

    def load(self) -> dict[str, Split]:
        """Return the splits that exist: "train", and "validation" and "test" where the source has them."""
