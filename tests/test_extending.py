"""The examples of docs/extending.md train a model as their commands say."""

import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from commandline import ROOT, run, setting
from counterpoise.metrics import registry

BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs/extending.md").read_text(encoding="utf-8"), re.DOTALL)
FILES = {
    first.removeprefix("# "): rest
    for first, _, rest in (code.partition("\n") for language, code in BLOCKS if language in ("python", "yaml"))
}
COMMANDS = [line.split()[2:] for language, code in BLOCKS if language == "sh" for line in code.splitlines()]


@pytest.fixture
def project(tmp_path, monkeypatch, texts):
    """The files of the examples in a project of their own, and a database of texts."""
    for name, code in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(code, encoding="utf-8")
    (tmp_path / "src/mytask/__init__.py").touch()
    with sqlite3.connect(tmp_path / "messages.db") as database:
        pd.read_csv(texts["train"]).to_sql("messages", database, index=False)
    monkeypatch.setattr(registry, "_metrics", dict(registry._metrics))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "src")
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "mytask"]:
        del sys.modules[name]


@pytest.mark.parametrize("overrides", COMMANDS, ids=" ".join)
def test_an_example_trains(project, texts, tiny_encoder, tmp_path, overrides):
    settings = setting(texts, tiny_encoder)
    if "data=sqlite" in overrides:
        settings = [each for each in settings if not each.startswith("data")]
    if "encoder=attention_pooling" in overrides:
        settings = ["~encoder.mirror" if each == "encoder=local" else each for each in settings]
    arguments = ["--config-dir", str(project / "conf"), *settings, *overrides]
    outcome = run(tmp_path / "run", *arguments)
    assert outcome.code == 0, outcome.err
    if "experiment=auroc" in overrides:
        assert 0 <= outcome.metrics["test"]["macro_auroc"] <= 1
        assert "macro AUROC" in outcome.out
        assert "macro AUROC" in (tmp_path / "run/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".py")])
def test_an_example_is_short(name):
    assert len(FILES[name].splitlines()) <= 30


USE_FORK = """
import runpy, sys, counterpoise, pytest
print(counterpoise.__file__)
assert pytest.main(["-q", "-p", "no:cacheprovider"]) == 0
for command in {commands}:
    print(*command)
    sys.argv = command
    run = runpy.run_path if command[0].endswith(".py") else runpy.run_module
    run(command[0], run_name="__main__")
"""
"""A program that runs the tests and some commands of a fork in one process."""


def test_a_fork_is_written_from_a_wheel_and_trains(tmp_path, texts, tiny_encoder):
    def python(*arguments: str, folder: Path = tmp_path) -> "subprocess.CompletedProcess[str]":
        environment = {"PYTHONPATH": f"{tmp_path / 'site'}:{tmp_path / 'fork/src'}", "HOME": str(tmp_path), "PATH": ""}
        return subprocess.run(
            [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
        )

    pip = ("-m", "pip", "--disable-pip-version-check")
    built = python(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT))
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    installed = python(*pip, "install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel))
    assert installed.returncode == 0, installed.stderr
    written = python("-m", "counterpoise.fork", "spam_filter", "fork", "--wheel", str(wheel))
    assert written.returncode == 0, written.stderr

    fork = tmp_path / "fork"
    assert {path.name for path in fork.iterdir()} >= {
        "conf",
        "src",
        "tests",
        "train.py",
        "Makefile",
        "requirements.txt",
    }
    assert "mytask" not in "".join(path.read_text() for path in fork.rglob("*.py"))
    encoder = ["encoder=local", f"encoder.name={tiny_encoder}", "encoder.max_length=32"]
    encoder += ["trainer=cpu", "logger=csv", "hydra.run.dir=run"]
    commands = [
        ["train.py", *encoder, "strategy=weighted", "trainer.max_epochs=1"],
        ["counterpoise.audit"],
        ["counterpoise.predict", "run", "data/spam_filter.csv", "--text", "message"],
    ]
    done = python("-c", USE_FORK.format(commands=commands), folder=fork)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(str(tmp_path / "site"))
    assert "fraud" in done.stdout.partition("counterpoise.audit")[2]


def test_the_train_py_of_a_fork_is_that_of_the_project():
    template = ROOT / "src/counterpoise/commands/fork_template/train.py"
    expected = (ROOT / "train.py").read_text().replace('config_name="train"', 'config_name="mytask"')
    assert template.read_text() == expected
