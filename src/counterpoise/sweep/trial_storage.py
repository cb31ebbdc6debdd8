"""The database of `sweep=optuna`, which the sweep and its jobs share."""

from pathlib import Path
from typing import TYPE_CHECKING

from counterpoise.errors import UserError

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

DATABASE = "optuna.db"
"""SQLite file in the folder of the sweep."""
STUDY = "sweep"
"""Name of the study in the database."""
LOCK_SECONDS = 60
"""Time that a process waits while another one writes."""


def open_storage(folder: Path) -> "RDBStorage":
    """Return the storage in the folder of a sweep. The file is created if it does not exist.

    Raises:
        UserError: Optuna is not installed.
    """
    check_optuna()
    from optuna.storages import RDBStorage
    from sqlalchemy import URL

    # A path may have characters that are special in an address, such as ?.
    address = URL.create("sqlite", database=str((folder / DATABASE).absolute()))
    return RDBStorage(address.render_as_string(), engine_kwargs={"connect_args": {"timeout": LOCK_SECONDS}})


def check_optuna() -> None:
    """Raise UserError if Optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError("sweep=optuna needs Optuna: pip install 'counterpoise[search]'") from error
