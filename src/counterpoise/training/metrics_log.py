"""The log of the metrics of a run, `csv/metrics.csv`, which a resumed run continues."""

import csv
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.loggers.logger import rank_zero_experiment

log = logging.getLogger(__name__)


class MetricsLog(CSVLogger):
    """CSVLogger that keeps the rows of the run that is resumed. Lightning's deletes them.

    A run that ended between the last step of an epoch and the end of the epoch has no `train/loss_epoch` for it.

    Args:
        save_dir: Run folder.
        name: Subfolder of the run folder; "" for none.
        version: Subfolder of `name` that holds metrics.csv.
        ckpt: Checkpoint that is resumed from, in the folder "checkpoints" of its run; None in a new run.
        **options: As of `CSVLogger`.
    """

    def __init__(
        self, save_dir: str, name: str = "", version: str = "csv", ckpt: str | None = None, **options: Any
    ) -> None:
        super().__init__(save_dir, name, version, **options)
        self._earlier = _read(Path(ckpt).absolute().parents[1] / name / version / "metrics.csv") if ckpt else []
        self._repeated: set[tuple[int | None, frozenset[str]]] = set()

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """Writer of the file, which holds all earlier rows until `continue_after`."""
        if self._experiment is None:
            super().experiment  # noqa: B018 - creates the writer and deletes the file
            self._replace(self._earlier)
        return self._experiment  # type: ignore[return-value]

    @rank_zero_only
    def continue_after(self, steps: int) -> None:
        """Drop the earlier rows that follow the first `steps` optimizer steps."""
        rows = [row for row in self._earlier if int(row["step"]) < steps]
        self._repeated = {(int(row["step"]), _columns(row)) for row in rows}
        self.experiment  # noqa: B018 - creates the writer
        self._replace(rows)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log a row, unless it is an earlier one: a resumed run may repeat a validation or the end of an epoch."""
        if (step, frozenset(metrics)) not in self._repeated:
            super().log_metrics(dict(metrics), step)

    def _replace(self, rows: list[dict[str, Any]]) -> None:
        writer = self._experiment
        assert writer is not None
        Path(writer.metrics_file_path).unlink(missing_ok=True)
        writer.metrics = list(rows)
        writer.save()


def _read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a log, except those that a kill left incomplete."""
    if not path.is_file():
        log.warning("%s is missing: the learning curves begin where the run is resumed", path)
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if None not in row.values() and row["step"].isdecimal()]


def _columns(row: Mapping[str, str]) -> frozenset[str]:
    return frozenset(name for name, value in row.items() if value != "" and name != "step")
