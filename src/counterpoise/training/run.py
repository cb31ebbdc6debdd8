"""The context of one training run: its folder, status file, configuration and process rank."""

import functools
import gc
import json
import logging
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from counterpoise import stop_signals
from counterpoise.analysis.job_folders import finished_value, has_finished, read_status
from counterpoise.analysis.run_process import this_process
from counterpoise.data.cache import build_seconds
from counterpoise.errors import UserError
from counterpoise.io import atomic_path, exclusive, remove_unfinished
from counterpoise.terminal import console, exit_with_error, user_error_line
from counterpoise.training import signals
from counterpoise.training.checkpoints import LAST_CHECKPOINT
from counterpoise.training.config_types import check_types, flatten
from counterpoise.training.last_checkpoint import checkpoint_to_resume
from counterpoise.training.launcher import LostProcess, lost_process, watched
from counterpoise.training.next_steps import resume_command
from counterpoise.training.processes import check_cores, check_run_folder, end_with_launcher
from counterpoise.training.pruning import TrialPruned
from counterpoise.training.shown_settings import show_settings, shown_path
from hydra_plugins.counterpoise_launcher.launcher import ProcessLauncher
from hydra_plugins.counterpoise_launcher.sweeper import AutoSweeper, GridSweeper, OptunaSweeper

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunContext:
    """One training run.

    Args:
        config: Composed Hydra configuration.
        folder: Run folder, created by Hydra.
        choices: Chosen option of each configuration group, for example {"strategy": "weighted"}.
        overrides: Command-line overrides of the run.
        arguments: Arguments of the command: Hydra's options, such as --config-dir, the overrides of Hydra's own
            settings and those of the run.
        sweep: Whether the run is a job of a sweep (`-m`).
        job_number: Number of the job in its sweep, None in a single run.
        started: `time.monotonic()` at the start.
        cache_started: `cache.build_seconds()` at the start.
    """

    config: DictConfig
    folder: Path
    choices: Mapping[str, str]
    overrides: Sequence[str]
    arguments: Sequence[str]
    sweep: bool
    job_number: int | None
    started: float
    cache_started: float

    @classmethod
    def from_hydra(cls, config: DictConfig) -> "RunContext":
        """Return the context of the Hydra job that runs in this process."""
        hydra = HydraConfig.get()
        return cls(
            config=config,
            folder=Path(hydra.runtime.output_dir),
            choices=dict(hydra.runtime.choices),
            overrides=list(hydra.overrides.task),
            arguments=[*_options(), *hydra.overrides.hydra, *hydra.overrides.task],
            sweep=hydra.mode == RunMode.MULTIRUN,
            job_number=OmegaConf.select(hydra, "job.num"),  # type: ignore[arg-type]
            started=time.monotonic(),
            cache_started=build_seconds(),
        )

    @property
    def rank(self) -> int:
        """Rank of this process. Lightning's launchers set it before the program starts; only rank 0 writes files."""
        return rank_zero_only.rank  # type: ignore[attr-defined]

    @property
    def seconds(self) -> float:
        """Seconds since the start of the run."""
        return time.monotonic() - self.started

    @property
    def cache_seconds(self) -> float:
        """Seconds of the run that built the cache: downloads, reading and encoding, which later runs do not repeat."""
        return build_seconds() - self.cache_started

    @property
    def strategy_name(self) -> str:
        """Option of the group `strategy`."""
        return self.choices.get("strategy") or "custom"

    @property
    def part_of_probe_sweep(self) -> bool:
        """Whether the run is one of many linear probes, which are read through their comparison only."""
        return bool(self.config.probe) and self.sweep

    @functools.cached_property
    def resolved_config(self) -> dict[str, Any]:
        """The configuration with all interpolations resolved, as plain values."""
        return OmegaConf.to_container(self.config, resolve=True)  # type: ignore[return-value]

    @functools.cached_property
    def flat_config(self) -> dict[str, Any]:
        """The resolved configuration by dotted key."""
        return flatten(self.resolved_config)

    def begin(self) -> None:
        """Set up the terminal, check the configuration's types, print what matters of it, and write `config.yaml`."""
        end_with_launcher()
        console.quiet = self.rank != 0 or self.part_of_probe_sweep
        silence_library_warnings()
        if console.quiet and self.job_number:
            # All jobs of a sweep read the same data: the first one reports its defects.
            logging.getLogger("counterpoise.data").setLevel(logging.ERROR)
        if self.rank == 0:
            self._remove_unfinished_files()
        if isinstance(self.config.ckpt, str):
            self.config.ckpt = checkpoint_to_resume(self.config.ckpt, self.folder)
        check_types(self.resolved_config)
        check_run_folder(OmegaConf.to_container(HydraConfig.get().run)["dir"])  # type: ignore[call-overload, index]
        check_cores(self.resolved_config["trainer"])
        file = shown_path(self.folder / "config.yaml")
        show_settings(self.resolved_config, self.flat_config, self.choices, self.overrides, file)
        if self.rank == 0:
            text = yaml.safe_dump(self.resolved_config, sort_keys=False, allow_unicode=True)
            (self.folder / "config.yaml").write_text(text, encoding="utf-8")

    def _remove_unfinished_files(self) -> None:
        for path in (*remove_unfinished(self.folder), *remove_unfinished(self.folder / "checkpoints")):
            log.info("removed %s, which a killed run left unfinished", path)

    def write_status(self, state: str, reason: str | None = None, value: float | None = None) -> None:
        """Write `status.json`.

        Args:
            state: "running", "finished", "failed" or "pruned".
            reason: Why the run failed or was pruned, one line.
            value: What a finished run returns to the sweeper.
        """
        if self.rank != 0:
            return
        status = {
            "state": state,
            "reason": reason,
            "value": value,
            "overrides": list(self.overrides),
            "process": this_process(),
            "seconds": round(self.seconds, 1),
            "cache_seconds": round(self.cache_seconds, 1),
        }
        with atomic_path(self.folder / "status.json") as path:
            path.write_text(json.dumps(status, indent=2), encoding="utf-8")


def record_status(task: Callable[[RunContext], float | None]) -> Callable[[DictConfig], float | None]:
    """Turn a function of a `RunContext` into a Hydra task that keeps `status.json` up to date.

    In a sweep a failed job is logged and returns None, so that the other jobs still run, and a job that has finished in
    its folder before is skipped.
    """
    # Hydra searches installed plugins only, and not those of an editable installation.
    for plugin in (ProcessLauncher, AutoSweeper, GridSweeper, OptunaSweeper):
        Plugins.instance().register(plugin)

    @functools.wraps(task)
    def run_and_record(config: DictConfig) -> float | None:
        run = RunContext.from_hydra(config)
        if run.sweep and has_finished(run.folder, run.overrides):
            log.info("job %s finished earlier and is skipped", run.job_number)
            return finished_value(run.folder)
        with _alone_in_folder(run), signals.handled(), watched(functools.partial(_record_lost, run)):
            try:
                _warn_of_interrupted_run(run)
                run.write_status("running")
                value = task(run)
                signals.defer()
                run.write_status("finished", value=value)
            except TrialPruned as pruned:
                signals.defer()
                value = None
                run.write_status("pruned", str(pruned))
            except (Exception, KeyboardInterrupt, SystemExit) as end:
                signals.defer()
                # What a signal raises may become another error, such as that of an archive which is not closed.
                stop = signals.received() or (signal.SIGINT if isinstance(end, KeyboardInterrupt) else None)
                if stop is None and isinstance(end, RuntimeError) and (lost := lost_process(seconds=1)):
                    # Communication with the lost process has failed.
                    sys.exit(_record_lost(run, lost))
                if stop is None and isinstance(end, Exception):
                    _record_failure(run, end)
                    return None
                code = 128 + stop if stop else getattr(end, "code", None) or 1
                _record_stop(run, stop_signals.cause(stop) if stop else f"exit with code {code}")
                sys.exit(code)
            if run.sweep and not config.probe:
                # Model and trainer reference each other. Without a collection a sweep holds several of them in memory.
                gc.collect()
            signals.check()
        return value

    return run_and_record


@contextmanager
def _alone_in_folder(run: RunContext) -> Iterator[None]:
    """Hold the run folder, or refuse to run if another run does. The other processes of a run write no files."""
    if run.rank != 0:
        yield
        return
    setting = "hydra.sweep.dir" if run.sweep else "hydra.run.dir"
    refusal = f"another run is writing to {run.folder}: wait for its end, or set {setting}"
    with ExitStack() as held:
        try:
            held.enter_context(exclusive(run.folder / ".run.lock", refusal))
        except UserError as error:
            if run.sweep or run.config.traceback:
                raise
            exit_with_error(str(error))  # Hydra prints "Error executing job" before an error that is raised.
        yield


def _options() -> list[str]:
    """Return the options of Hydra on the command line that say where the configuration is."""
    given = get_args_parser().parse_known_args(sys.argv[1:])[0]
    values = {name: getattr(given, name) for name in ("config_path", "config_name", "config_dir")}
    return [f"--{name.replace('_', '-')}={value}" for name, value in values.items() if value]


def _warn_of_interrupted_run(run: RunContext) -> None:
    """Warn if the run folder holds an interrupted run whose checkpoints will be replaced. Sweeps do this on purpose."""
    if run.rank != 0 or run.sweep or run.config.ckpt or not (run.folder / "checkpoints" / LAST_CHECKPOINT).is_file():
        return
    if read_status(run.folder).get("state") in ("running", "failed"):
        log.warning(
            "%s holds an interrupted run. Its checkpoints are replaced, because training starts from the beginning; "
            "ckpt=last continues it instead",
            shown_path(run.folder),
        )


def _record_stop(run: RunContext, cause: str) -> None:
    """Record that the run was stopped and print how it is resumed."""
    run.write_status("failed", f"stopped by {cause}")
    if run.rank == 0:
        print(f"\nstopped by {cause}{_resume_hint(run)}", file=sys.stderr)


def _record_lost(run: RunContext, lost: LostProcess) -> int:
    """Record that another process of the run ended and print it; return the exit code."""
    if lost.stop:
        _record_stop(run, stop_signals.cause(lost.stop))
        return 128 + lost.stop
    run.write_status("failed", str(lost))
    print(f"error: {lost}", file=sys.stderr)
    return 1


def _resume_hint(run: RunContext) -> str:
    """Return the command that resumes a stopped run, or an empty string if it has no checkpoint or is part of a sweep.

    The command repeats the arguments of the run and continues it in its folder.
    """
    own = run.folder / "checkpoints" / LAST_CHECKPOINT
    checkpoint = own if own.exists() else run.config.ckpt
    if run.sweep or not checkpoint:
        return ""
    return f"; to resume: {resume_command(run.arguments, Path(checkpoint), run.folder)}"


def _record_failure(run: RunContext, error: Exception) -> None:
    """Record the exception that is being handled; raise it or exit, except in a sweep."""
    line = user_error_line(error, run.folder)
    reason = line or f"{type(error).__name__}: {' '.join(str(error).split())}"
    try:
        run.write_status("failed", reason)
    except UserError as full:
        log.error("%s", full)
    log.debug("failed", exc_info=True)
    with_traceback = line is None or run.config.traceback
    if not run.sweep:
        if with_traceback:
            raise error
        exit_with_error(str(line))
    if with_traceback:
        traceback.print_exc()
    log.error("this job failed, the sweep continues: %s", reason)


def silence_library_warnings() -> None:
    """Hide warnings of libraries about situations that are intended here."""
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*recommended to use `self.log.*sync_dist=True.*")  # equal on all devices
    warnings.filterwarnings("ignore", ".*your dataloader is not resumable.*")
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", ".*Experiment logs directory .*")  # MetricsLog keeps them
    warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")  # a frozen encoder
    warnings.filterwarnings("ignore", ".*The dirpath has changed.*")
    warnings.filterwarnings("ignore", ".*The number of training batches .* is smaller than the logging interval.*")
