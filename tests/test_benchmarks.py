"""Every script of benchmarks/ imports what exists and prints its help."""

import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))
ONLY_FOR_BENCHMARKS = {
    line.partition("==")[0] for line in (FOLDER / "requirements.txt").read_text("utf-8").splitlines() if "==" in line
}
"""Packages that only benchmarks/requirements.txt installs."""


def test_the_folder_has_scripts():
    assert len(SCRIPTS) > 5


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_prints_its_help(name, monkeypatch, capsys):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    try:
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    except ModuleNotFoundError as error:
        if error.name not in ONLY_FOR_BENCHMARKS:
            raise
        pytest.skip(f"{name}.py needs {error.name}: pip install -r benchmarks/requirements.txt")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: {name}.py")
    assert "--" in shown
