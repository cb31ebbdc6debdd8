"""Data sources: where texts and labels come from."""

from typing import Protocol

from counterpoise.data.table import Split


class Source(Protocol):
    """Where the texts come from: `FileSource`, `HubSource`, or anything else with these two methods.

    One that also has an `on_bad_row`, "error", has rows refused whose class or label training lacks.
    """

    def prepare(self) -> None:
        """Downloads what is needed; called once per machine."""

    def load(self) -> dict[str, Split]:
        """Returns the splits that exist: "train", and "validation" and "test" where given."""
