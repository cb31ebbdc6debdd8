"""What a run tells a new user: the settings that were changed, the worst class, and commands that work."""

import shlex

import pandas as pd
import pytest

from commandline import Outcome, call, run, setting
from counterpoise.commands import predict

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def done(texts, tiny_encoder, tmp_path_factory) -> Outcome:
    """A finished run in a folder whose name needs quotes."""
    folder = tmp_path_factory.mktemp("first hour") / "the first run"
    return run(folder, *setting(texts, tiny_encoder), "seed=3", "strategy/loss=focal")


def command(done: Outcome, name: str) -> list[str]:
    (line,) = [line for line in done.out.splitlines() if line.startswith(f"{name}  ")]
    return shlex.split(line.removeprefix(name))


def test_a_run_prints_what_was_changed_and_key_settings_instead_of_the_configuration(done):
    assert done.code == 0, done.err
    start = " ".join(done.out.partition("examples: ")[0].split())
    assert "seed=3" in start
    assert "strategy/loss=focal" in start
    assert "strategy=combined" in start
    assert "loader.batch_size=16" in start
    assert start.count("seed") == 1
    assert "decision" not in start
    assert "config.yaml" in start
    assert len(done.out.splitlines()) < 75


def test_verbose_prints_the_whole_configuration(texts, tiny_encoder, tmp_path):
    shown = run(tmp_path / "run", *setting(texts, tiny_encoder), "verbose=true", "monitor=val/nothing", report=False)
    assert shown.code == 2
    assert "at_least_one: false" in shown.out


def test_the_worst_class_is_named_with_its_scores(done):
    (line,) = [line for line in done.out.splitlines() if line.startswith("worst class: ")]
    table = pd.read_csv(done.folder / "per_class.csv", keep_default_na=False).set_index("class")
    worst = line.removeprefix("worst class: ").partition(",")[0]
    assert table.f1[worst] == table.f1[table.test_count > 0].min()
    assert f"recall {table.recall[worst]:.3f} on {table.test_count[worst]} test texts" in line


def test_the_commands_that_come_next_work(done, texts, tmp_path, monkeypatch):
    assert command(done, "report")[-1] == (done.folder / "report.html").as_uri()
    assert command(done, "compare")[-2] == str(done.folder)
    monkeypatch.chdir(tmp_path)
    python, _, module, *arguments = command(done, "predict")
    assert "python" in python
    assert module == "counterpoise.predict"
    arguments[-1] = texts["test"]
    assert call(predict.main, monkeypatch, *arguments) == 0
    assert (tmp_path / "predictions.parquet").is_file()
    _, program, *overrides = command(done, "train on")
    assert program.endswith("train.py")
    longer = run(tmp_path / "longer", *overrides, report=False)
    assert longer.code == 0, longer.err
    assert longer.last["epoch"] == 1
    assert longer.last["global_step"] == 2 * done.last["global_step"]


def test_the_command_that_trains_on_works_with_a_run_in_its_own_directory(texts, tiny_encoder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(tmp_path / "done", *setting(texts, tiny_encoder), "hydra.job.chdir=true", report=False)
    assert done.code == 0, done.err
    longer = run(tmp_path / "longer", *command(done, "train on")[2:], report=False)
    assert longer.code == 0, longer.err
    assert longer.last["global_step"] == 2 * done.last["global_step"]
