"""The job folders of a sweep: which jobs have finished, and which folder belongs to which job."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterpoise.analysis.run_process import has_died
from counterpoise.errors import UserError
from counterpoise.io import atomic_path
from counterpoise.saved_files import read_json, read_yaml, reading

ENSEMBLE_FILE = "ensemble.json"
"""File that the folder of an ensemble holds, and a run folder does not."""


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Args:
        number: Number of the job, by default the name of its folder.
        overrides: Its overrides.
        folder: Folder of an earlier attempt with the same overrides, None if there is none.
    """

    number: int
    overrides: tuple[str, ...]
    folder: Path | None = None


def is_job(folder: Path) -> bool:
    """Return whether a folder belongs to a job: it holds `status.json` or Hydra's overrides."""
    return (folder / "status.json").is_file() or (folder / ".hydra" / "overrides.yaml").is_file()


def jobs_of(sweep_dir: Path) -> list[Path]:
    """Return the job folders of a sweep, in any order; of a folder that holds ensembles only, these.

    An ensemble beside jobs is no job.
    """
    folders = [folder for folder in (sweep_dir.iterdir() if sweep_dir.is_dir() else ()) if is_job(folder)]
    return [folder for folder in folders if not (folder / ENSEMBLE_FILE).exists()] or folders


def overrides_of(folder: Path) -> list[str]:
    """Return the overrides of a job, from `status.json` or from what Hydra saved before the job began."""
    overrides = read_status(folder).get("overrides")
    return list(map(str, overrides)) if isinstance(overrides, list) else hydra_overrides(folder)


def hydra_overrides(folder: Path) -> list[str]:
    """Return the overrides that Hydra saved before the job began; empty if there are none."""
    try:
        return [str(override) for override in read_yaml(folder / ".hydra" / "overrides.yaml", list)]
    except UserError:
        return []


def find_folders(sweep_dir: Path, job_overrides: Sequence[Sequence[str]], first: int = 0) -> list[Job]:
    """Return the jobs with the folders of earlier attempts.

    A folder belongs to one list of overrides, in any order: a job that was tried before keeps its folder, and a new job
    never gets the folder of another one.

    Args:
        sweep_dir: Folder of the sweep.
        job_overrides: The overrides of each job.
        first: Number of the first job.
    """
    folders = sorted(jobs_of(sweep_dir), key=lambda folder: (len(folder.name), folder.name))
    earlier: dict[tuple[str, ...], list[Path]] = {}
    for folder in folders:
        earlier.setdefault(_key(overrides_of(folder)), []).append(folder)
    taken = {int(folder.name) for folder in folders if folder.name.isdecimal()}
    following = max([first + len(job_overrides) - 1, *taken]) + 1
    jobs = []
    for number, overrides in enumerate(job_overrides, first):
        mine = earlier.get(_key(overrides))
        own = mine.pop(0) if mine else None
        if own is not None and own.name.isdecimal():
            number = int(own.name)
        elif number in taken:
            number, following = following, following + 1
        jobs.append(Job(number, tuple(overrides), own))
    return jobs


def differing_overrides(jobs: Sequence[Job]) -> tuple[list[str], list[str]]:
    """Return the overrides that all jobs share, and for each job the other ones as text."""
    shared = [each for each in jobs[0].overrides if all(each in job.overrides for job in jobs)] if len(jobs) > 1 else []
    return shared, [" ".join(each for each in job.overrides if each not in shared) or "default" for job in jobs]


def check_finished(folder: Path) -> None:
    """Raise UserError, with what to do, for the folder of a run that has not finished.

    A folder without `status.json`, such as a model's in an ensemble, is not checked.
    """
    path = folder / "status.json"
    if not path.is_file():
        return
    status = read_json(path)
    state, reason = status.get("state"), " ".join(str(status.get("reason") or "no reason given").split())
    with reading(path):
        alive = state == "running" and not has_died(status.get("process"))
    if state == "finished":
        return
    if state == "pruned":
        raise UserError(f"{folder} is not a finished run: it was pruned, {reason}. Name a finished trial of its sweep")
    if alive:
        problem, otherwise = "it is running", "Wait for its end. If it was killed on another host, "
    else:
        problem, otherwise = "it was killed" if state == "running" else f"it failed, {reason}", ""
    if (folder.parent / "multirun.yaml").is_file():
        action = f"repeat the command of its sweep with hydra.sweep.dir={folder.parent}"
    elif (folder / "checkpoints" / "last.ckpt").is_file():
        action = f"continue it: repeat its command with ckpt=last hydra.run.dir={folder}"
    else:
        action = "train it again, because it has no checkpoint to continue from"
    action = f"{otherwise}{action}" if otherwise else action[0].upper() + action[1:]
    raise UserError(f"{folder} is not a finished run: {problem}. {action}")


def has_finished(folder: Path, overrides: Sequence[str]) -> bool:
    """Return whether a job with these overrides has finished in the folder.

    Raises:
        UserError: A job with other overrides has. Its results would be overwritten.
    """
    if read_status(folder).get("state") != "finished" or "test" not in _read(folder / "metrics.json"):
        return False
    if _key(found := overrides_of(folder)) != _key(overrides):
        raise UserError(
            f"{folder} holds the results of another job ({' '.join(found)}). Set another hydra.sweep.dir, or use "
            "hydra/launcher=processes, which gives the jobs other numbers."
        )
    return True


def finished_value(folder: Path) -> float | None:
    """Return the value that a finished job returned to the sweeper."""
    return read_status(folder).get("value")


def read_status(folder: Path) -> dict[str, Any]:
    """Return the content of `status.json`, or an empty dictionary if there is none or it is unreadable."""
    return _read(folder / "status.json")


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except UserError:
        return {}


def record_failure(folder: Path, overrides: Sequence[str], reason: str, seconds: float) -> None:
    """Write the reason of a failure into `status.json`, for a job that could not do so itself."""
    new = {"state": "failed", "reason": reason, "overrides": list(overrides), "seconds": round(seconds, 1)}
    with atomic_path(folder / "status.json") as path:
        path.write_text(json.dumps(read_status(folder) | new, indent=2), encoding="utf-8")


def _key(overrides: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(overrides))
