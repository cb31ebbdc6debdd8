"""Run `train.py` and the commands as a user does: command line, exit code, terminal output, run folder."""

import contextlib
import io
import json
import logging
import os
import runpy
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hydra._internal.hydra import Hydra

from counterpoise.terminal import command_line

ROOT = Path(__file__).resolve().parent.parent
TASK_OF_LOSS = {
    "asymmetric": "multi_label",
    "distribution_balanced": "multi_label",
    "cb_ntr_focal": "multi_label",
    "ntr_focal": "multi_label",
    "r_bce_focal": "multi_label",
    "balanced_softmax": "single_label",
    "ldam": "single_label",
    "ldam_drw": "single_label",
    "logit_adjusted": "single_label",
}
"""Strategies whose loss supports one task only, and the task."""
TASK_OF_STRATEGY = TASK_OF_LOSS | {"post_hoc": "single_label", "tau_normalised": "single_label"}
"""Strategies that support one task only because of loss or second stage, and the task."""


def strategies(task: str) -> list[str]:
    """Return the strategies of conf/ that support the task."""
    names = sorted({path.stem for path in (ROOT / "conf/strategy").glob("*.yaml")} - {"base"})
    return [name for name in names if TASK_OF_STRATEGY.get(name, task) == task]


@dataclass(frozen=True)
class Outcome:
    """A finished run: exit code, standard output, standard error, run folder."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def metrics(self) -> dict[str, Any]:
        return json.loads((self.folder / "metrics.json").read_text())

    @property
    def status(self) -> dict[str, Any]:
        return json.loads((self.folder / "status.json").read_text())

    @property
    def last(self) -> dict[str, Any]:
        """Content of the last checkpoint."""
        return load(self.folder / "checkpoints/last.ckpt")

    @property
    def error(self) -> str:
        """The message of the user error."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        return lines[0]


def run(folder: Path, *overrides: str, report: bool = True) -> Outcome:
    """Run `train.py` in this process, which saves the seconds that importing torch takes.

    report: Whether it writes report.html, which takes half the time of a small run.
    """
    with contextlib.ExitStack() as stack:
        if not report:
            stack.enter_context(patch("counterpoise.report.run.run_report.write_run_report"))
        return run_application(ROOT / "train.py", folder, *overrides, f"hydra.run.dir={folder}")


def run_application(script: Path, folder: Path, *arguments: str) -> Outcome:
    """Run a Hydra application in this process."""
    out, err = io.StringIO(), io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    code: Any = 0
    try:
        with (
            patch.object(sys, "argv", [script.name, *arguments]),
            patch.dict(os.environ, {"COLUMNS": "120"}),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
            # Hydra composes the configuration once more to read hydra.mode, which no test sets.
            patch.object(Hydra, "get_mode", return_value=None),
        ):
            runpy.run_path(str(script), run_name="__main__")
    except SystemExit as stop:
        code = stop.code or 0
    except Exception:
        code = 1
        err.write(traceback.format_exc())
    finally:
        torch.set_num_threads(1)
        for handler in root.handlers:
            with contextlib.suppress(OSError):  # a full disk
                handler.close()
        root.handlers, root.level = handlers, level
    return Outcome(code, out.getvalue(), err.getvalue(), folder)


def call(main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run another command of the package in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["counterpoise", *map(str, arguments)])
    try:
        command_line(main)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def printed(main: Callable[[], None], encoding: str, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> str:
    """Run a command in this process, with an interactive terminal of the encoding, and return what it prints.

    A character that the terminal cannot encode raises, unless the command prevents it.
    """
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setenv("TTY_INTERACTIVE", "1")
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        code = call(main, monkeypatch, *arguments)
    stream.flush()
    shown = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert code == 0, shown
    return shown


def imported_by(statement: str, *arguments: object) -> set[str]:
    """Run a statement in a new process, with these command-line arguments, and return the libraries it has imported."""
    code = f"import sys\n{statement}\nprint('imported', *{{name.partition('.')[0] for name in sys.modules}})"
    given = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(given, env=environment(), capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


def start(*overrides: str) -> "subprocess.Popen[str]":
    """Start `train.py` in its own process, for tests of signals and process groups."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *overrides],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Background jobs of a shell ignore SIGINT, and child processes inherit this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def environment() -> dict[str, str]:
    """Return the environment of a process that can import the modules beside the tests."""
    path = os.pathsep.join(filter(None, [str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "COLUMNS": "120", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def finish(process: "subprocess.Popen[str]", folder: Path, seconds: float = 300) -> Outcome:
    """Wait for a process from `start`."""
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return Outcome(process.returncode, out, err, folder)


def setting(texts: dict[str, Path], encoder: Path) -> list[str]:
    """Return overrides for the tiny encoder on generated texts, with high learning rates."""
    return [
        "data=files",
        f"data.train={texts['train']}",
        f"data.test={texts['test']}",
        "encoder=local",
        f"encoder.name={encoder}",
        "encoder.max_length=32",
        "trainer=cpu",
        "logger=csv",
        "optim.encoder_lr=3e-3",
        "optim.head_lr=1e-2",
    ]


def load(path: Path) -> dict[str, Any]:
    """Return a checkpoint of tensors and plain values."""
    return torch.load(path, map_location="cpu", weights_only=True)


def same_weights(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two checkpoints have the same weights, bit for bit."""
    one, other = one["state_dict"], other["state_dict"]
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
