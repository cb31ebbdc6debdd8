"""The help of every command, and the refusal of invalid arguments, do not wait for the import of PyTorch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = sorted(
    path.stem
    for path in (Path(__file__).resolve().parents[2] / "src/counterpoise").glob("*.py")
    if "command_line(main)" in path.read_text("utf-8")
)
HEAVY = ["torch", "pytorch_lightning", "transformers", "torchmetrics"]
PROGRAM = f"""
import runpy, sys
sys.argv[0] = "counterpoise"
try:
    runpy.run_module("counterpoise." + sys.argv.pop(1), run_name="__main__")
finally:
    print("imported:", *(name for name in {HEAVY} if name in sys.modules))
"""


def start(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in its own process and print which heavy libraries it imported."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "120"},
    )


def test_all_commands_are_known():
    assert {"audit", "compare", "ensemble", "evaluate", "export", "fork", "predict", "serve"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_printed_without_importing_torch(command, tmp_path):
    done = start(tmp_path, command, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: counterpoise.{command}")
    assert done.stdout.splitlines()[-1] == "imported:"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["predict", "no_run", "texts.csv", "--output", "texts.csv"], "--output"),
        (["evaluate", "no_run", "texts.csv"], "no_run"),
        (["export", "no_run"], "no_run"),
        (["serve", "no_run", "--max-texts", "0"], "--max-texts"),
        (["compare", "no_sweep", "--output", "texts.csv"], "--output"),
        (["audit", "data=no_such_data"], "no_such_data"),
        (["fork", "not-a-name", "folder"], "not-a-name"),
    ],
)
def test_invalid_paths_and_names_are_refused_without_importing_torch(arguments, problem, tmp_path):
    (tmp_path / "texts.csv").write_text("text,label\na,b\n")
    done = start(tmp_path, *arguments)
    assert done.returncode == 2, done.stderr
    assert problem in done.stderr
    assert done.stdout.splitlines()[-1] == "imported:"
