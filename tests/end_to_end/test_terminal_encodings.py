"""No command fails because the terminal lacks the characters of class names, texts or progress bars."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len

from commandline import ROOT, printed, run, setting
from conftest import COUNTS, write_texts
from counterpoise.commands import audit, compare, evaluate, predict

pytestmark = pytest.mark.e2e

NAMES = {"alpha": "产品故障", "beta": "価格", "gamma": "élève €", "delta": "ж🙂"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Texts whose classes have names outside ASCII, Latin-1, GBK and cp932."""
    folder = tmp_path_factory.mktemp("texts")
    paths = {"train": folder / "训练.csv", "test": folder / "测试.csv"}
    for path in paths.values():
        text = write_texts(path, COUNTS | {"delta": 3}).read_text()
        for name, shown in NAMES.items():
            text = text.replace(f",{name}\n", f",{shown}\n")
        path.write_text(text, encoding="utf-8")
    return paths


@pytest.fixture(scope="module")
def overrides(files: dict[str, Path], tiny_encoder: Path) -> list[str]:
    split = {"train": f'"{files["train"]}"', "test": f'"{files["test"]}"'}
    return [*setting(split, tiny_encoder), "trainer.max_epochs=1"]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, overrides: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("run")
    outcome = run(folder, *overrides, report=False)
    assert outcome.code == 0, outcome.err
    return folder


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk", "cp932"])
@pytest.mark.parametrize("command", ["audit", "predict", "evaluate", "compare"])
def test_a_command_prints_in_the_encoding_of_the_terminal(
    command, encoding, finished, overrides, files, tmp_path, monkeypatch
):
    main, *arguments = {
        "audit": (audit.main, *(each for each in overrides if not each.startswith(("trainer", "logger", "optim")))),
        "predict": (predict.main, finished, files["test"], "--output", tmp_path / "out.parquet"),
        "evaluate": (evaluate.main, finished, files["test"], "--output", tmp_path / "out"),
        "compare": (compare.main, f"甲={finished}", f"ж🙂={finished}", "--output", tmp_path / "out"),
    }[command]
    assert printed(main, encoding, monkeypatch, *arguments)


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({"PYTHONIOENCODING": "cp932"}, marks=pytest.mark.soak),
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["cp932", "C"],
)
def test_a_run_trains_in_any_locale(variables, overrides, files, tmp_path):
    link = tmp_path / "ascii"
    link.mkdir()
    for name, path in files.items():
        (link / f"{name}.csv").symlink_to(path)
    ascii_files = [f"data.{name}={link / name}.csv" for name in files]
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "train.py"),
            *overrides[:1],
            *overrides[3:],
            *ascii_files,
            f"hydra.run.dir={tmp_path / 'run'}",
        ],
        env={**os.environ, "COLUMNS": "80", "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        check=False,
    )
    shown = done.stdout.decode(variables.get("PYTHONIOENCODING", "ascii"))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr.decode(errors="replace")
    assert r"\U0001f642" in shown
    assert all(cell_len(line) <= 80 for line in shown.splitlines() if line.startswith("|"))
