"""Experiment trackers: what MLflow, Weights & Biases and TensorBoard receive of a run, besides its metrics by step.

This is the only module that knows trackers. All of them receive the resolved configuration before training and the test
metrics after it. A tracker that fails during the run is named in a warning and receives nothing more: the files of the
run folder are complete without it.
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from counterpoise.errors import UserError, one_line
from counterpoise.training.results import RunResults

log = logging.getLogger(__name__)

FILES = (
    "config.yaml",
    "encoder.json",
    "balance.csv",
    "metrics.json",
    "per_class.csv",
    "calibration.json",
    "thresholds.json",
    "report.html",
    "train.log",
)
"""Files of the run folder that a tracker receives, those of them that exist."""
MODEL = "checkpoints/best.ckpt"
"""File that a tracker receives as well, if it stores the model."""
FOLDER = "run"
"""Folder of the files among the artifacts of MLflow. With the model it can be loaded as a run folder."""
SQLITE = "sqlite:///"
"""Start of the address of a SQLite database."""
DATABASE = f"{SQLITE}outputs/mlflow.db"
"""Where MLflow stores runs by default."""


class _Tolerant(Logger):
    """Methods of a tracker's logger that warn instead of raising, once the tracker has been reached.

    It precedes one of Lightning's loggers among the base classes, which sends what these methods receive.

    Attributes:
        title: Name of the tracker.
        store_model: Whether it receives the best checkpoint.
        failed: Whether it failed, and receives nothing more.
    """

    title: str
    store_model: bool
    failed = False

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        self.reach(super().log_hyperparams, params)  # type: ignore[safe-super]

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.attempt(super().log_metrics, metrics, step)  # type: ignore[safe-super]

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        self.attempt(super().finalize, status)

    def attempt(self, send: Callable[..., Any], *values: Any, **named: Any) -> None:
        """Call a function that sends something; after a failure warn and send nothing more."""
        if self.failed:
            return
        try:
            send(*values, **named)
        except Exception as error:  # Clients of servers raise exceptions of many classes.
            self.failed = True
            log.warning(
                "%s is not available and receives nothing more of this run: %s. The run continues; its folder has all "
                "results",
                self.title,
                one_line(error),
            )

    def reach(self, send: Callable[..., Any], *values: Any) -> None:
        """Call a function that sends something before training.

        Raises:
            UserError: The tracker cannot be reached, so that a run would not be tracked.
        """
        try:
            send(*values)
        except Exception as error:
            raise UserError(
                f"{self.title} is not available: {one_line(error)}. Check its settings below logger, or use another one"
            ) from error


class MLflowTracker(_Tolerant, MLFlowLogger):
    """Lightning's MLflow logger that also stores the files of a run, and does not end a run when the server does.

    Args:
        tracking_uri: Server, or SQLite database, whose folder is created. Defaults to the environment variable
            MLFLOW_TRACKING_URI, which may hold a password and is not recorded, or to `DATABASE`.
        artifact_location: Folder or bucket of the files of a new experiment. Defaults to the server's, and for a SQLite
            database to a folder beside it.
        store_model: Whether the best checkpoint is stored, so that the stored files are a run folder.
        **options: Arguments of Lightning's MLFlowLogger.
    """

    title = "MLflow"
    pruned = False

    def __init__(
        self,
        tracking_uri: str | None = None,
        artifact_location: str | None = None,
        store_model: bool = True,
        **options: Any,
    ) -> None:
        tracking_uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or DATABASE
        # MLflow's default are seven attempts, which take minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        try:
            if tracking_uri.startswith(SQLITE):
                database = Path(tracking_uri.removeprefix(SQLITE)).absolute()
                database.parent.mkdir(parents=True, exist_ok=True)
                artifact_location = artifact_location or (database.parent / "mlflow-files").as_uri()
            super().__init__(tracking_uri=tracking_uri, artifact_location=artifact_location, **options)
        except ModuleNotFoundError as error:
            raise UserError("logger=mlflow needs MLflow: pip install 'counterpoise[mlflow]'") from error
        except Exception as error:
            raise UserError(f"logger.mlflow: {one_line(error)}") from error
        self.store_model = store_model

    def send_files(self, folder: Path, files: Iterable[str]) -> None:
        """Store files of the run folder as artifacts."""
        for name in files:
            parent = Path(FOLDER, name).parent.as_posix()
            self.experiment.log_artifact(self.run_id, str(folder / name), parent)

    def mark_pruned(self, reason: str) -> None:
        """Set the tag `pruned`, and let the run end as KILLED instead of FAILED."""
        self.pruned = True
        self.experiment.set_tag(self.run_id, "pruned", reason)

    def finalize(self, status: str = "success") -> None:
        """End the run of MLflow."""
        super().finalize("KILLED" if self.pruned else status)


class WandbTracker(_Tolerant, WandbLogger):
    """Lightning's W&B logger that also stores the files of a run, and does not end a run when the server does.

    Args:
        store_model: Whether the best checkpoint is stored, so that the stored files are a run folder.
        **options: Arguments of Lightning's WandbLogger.
    """

    title = "Weights & Biases"

    def __init__(self, store_model: bool = True, **options: Any) -> None:
        try:
            super().__init__(**options)
        except ModuleNotFoundError as error:
            raise UserError("logger=wandb needs Weights & Biases: pip install 'counterpoise[wandb]'") from error
        self.store_model = store_model
        import wandb

        if wandb.run is not None:  # Lightning would continue the run of an earlier job in this process.
            wandb.finish()

    def send_files(self, folder: Path, files: Iterable[str]) -> None:
        """Store files of the run folder as an artifact, and show the report; then end the run of W&B."""
        import wandb

        run = self.experiment
        artifact = wandb.Artifact(f"run-{run.id}", type="model" if self.store_model else "results")
        for name in files:
            artifact.add_file(str(folder / name), name)
        run.log_artifact(artifact)
        if (folder / "report.html").is_file():
            run.log({"report": wandb.Html(str(folder / "report.html"))})
        run.finish()

    def mark_pruned(self, reason: str) -> None:
        """Add the tag `pruned` and the reason to the summary, and end the run of W&B without an error."""
        run = self.experiment
        run.tags = (*(run.tags or ()), "pruned")
        run.summary["pruned"] = reason
        run.finish()


@rank_zero_only
def mark_pruned(loggers: Iterable[Logger], reason: str) -> None:
    """Tell the trackers of a run that it is stopped because other trials of its search are better.

    Args:
        loggers: Loggers of the run.
        reason: Why it is stopped, one line.
    """
    for logger in loggers:
        if isinstance(logger, MLflowTracker | WandbTracker):
            logger.attempt(logger.mark_pruned, reason)


def send_results(loggers: Iterable[Logger], folder: Path, results: RunResults) -> None:
    """Send the results of a run to its trackers.

    MLflow and W&B receive `FILES` and the best checkpoint. TensorBoard has no files; it receives the configuration and
    the effective prior as text.

    Args:
        loggers: Loggers of the run.
        folder: Run folder with all results.
        results: The results.
    """
    for logger in loggers:
        if isinstance(logger, MLflowTracker | WandbTracker):
            files = [*FILES, *([MODEL] if logger.store_model else [])]
            logger.attempt(logger.send_files, folder, [name for name in files if (folder / name).is_file()])
        elif isinstance(logger, TensorBoardLogger):
            config = (folder / "config.yaml").read_text(encoding="utf-8")
            priors = zip(results.labels, results.effective_prior, strict=True)
            rows = [
                f"| {results.noun} | effective prior |",
                "|---|---|",
                *(f"| {_cell(c)} | {e:.4g} |" for c, e in priors),
            ]
            logger.experiment.add_text("config", "    " + config.replace("\n", "\n    "))
            logger.experiment.add_text("effective prior", "\n".join(rows))
            logger.experiment.flush()


def _cell(text: str) -> str:
    """Return a text as a cell of a Markdown table."""
    return " ".join(text.replace("|", r"\|").replace("<", "&lt;").split())
