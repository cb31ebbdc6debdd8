"""The leaderboard of a sweep, on a small Hydra application."""

from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf

import finished
from commandline import Outcome, run_application
from counterpoise.commands import sweep
from counterpoise.commands.sweep import SHOWN, LeaderboardCallback

APPLICATION = """
import json, pathlib
import hydra
from hydra.core.hydra_config import HydraConfig

@hydra.main(version_base="1.3", config_path=None, config_name="config")
def main(config):
    settings = HydraConfig.get()
    folder = pathlib.Path(settings.runtime.output_dir)
    board = folder.parent / "leaderboard.csv"
    (folder / "found").write_text(str(len(board.read_text().splitlines()) - 1 if board.is_file() else 0))
    failed = config.strategy == "ldam"
    status = {"state": "failed" if failed else "finished", "reason": "out of memory" if failed else None,
              "overrides": list(settings.overrides.task), "seconds": 1.0}
    if config.strategy == "killed":
        status["state"] = "running"
    (folder / "status.json").write_text(json.dumps(status))
    if status["state"] == "finished":
        (folder / "metrics.json").write_text(json.dumps({"test": {"macro_f1": 0.5, "loss": 1.0}}))
    if config.strategy == "raising":
        raise ValueError("a bug")

main()
"""
CONFIG = """
strategy: plain
seed: 1
hydra:
  job: {chdir: %s}
  sweep: {dir: "sweeps/${now:%%H-%%M-%%S-%%f}"}
  callbacks:
    leaderboard: {_target_: counterpoise.commands.sweep.LeaderboardCallback}
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the application with some arguments in the folder of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "UPDATE_SECONDS", 1e9)

    def run(*arguments: str, chdir: bool = False) -> Outcome:
        (tmp_path / "app.py").write_text(APPLICATION.replace("config_path=None", 'config_path="."'))
        (tmp_path / "config.yaml").write_text(CONFIG % str(chdir).lower())
        return run_application(tmp_path / "app.py", tmp_path, *arguments)

    return run


def table(folder: Path) -> pd.DataFrame:
    (path,) = folder.glob("sweeps/*/leaderboard.csv")
    return pd.read_csv(path)


@pytest.mark.parametrize("chdir", [False, True])
def test_a_sweep_without_failures_shows_its_leaderboard_and_exits_with_0(run, tmp_path, chdir):
    done = run("-m", "strategy=plain,weighted", "seed=1,2", chdir=chdir)
    assert done.code == 0, done.err
    assert table(tmp_path).state.tolist() == ["finished"] * 4
    # Rows of the leaderboard that each job found. It is not rewritten before the time.
    found = [path.read_text() for path in sorted(tmp_path.glob("sweeps/*/*/found"))]
    assert found == ["0", "1", "1", "1"]
    (leaderboard,) = tmp_path.glob("sweeps/*/leaderboard.csv")
    assert str(leaderboard) in done.out
    assert "strategy=weighted" in done.out
    assert len(list(tmp_path.rglob("leaderboard.csv"))) == 1


def test_a_sweep_continues_after_a_failed_job_and_exits_with_1(run, tmp_path):
    done = run("-m", "strategy=ldam,killed,plain")
    assert done.code == 1, done.err
    assert table(tmp_path).state.tolist() == ["failed", "failed", "finished"]
    assert "out of memory" in done.out
    assert "killed?" in done.out
    assert "Traceback" not in done.err


def test_the_terminal_lists_only_failed_jobs_of_a_large_sweep_and_no_empty_table(tmp_path, capsys):
    for number in range(SHOWN + 1):
        texts = [f"{number % 2}-{n}" for n in range(100)]
        finished.run(tmp_path / str(number), f"data.path={number % 2}", f"seed={number}", ids=texts)
    config = OmegaConf.create({"hydra": {"runtime": {"cwd": str(tmp_path)}, "sweep": {"dir": "."}}})
    LeaderboardCallback().on_multirun_end(config)
    printed = capsys.readouterr().out
    assert "Leaderboard" not in printed
    assert "finished jobs were tested on different texts: scores are not comparable" in printed
    finished.run(tmp_path / "failed", "strategy=ldam", state="failed")
    with pytest.raises(SystemExit):
        LeaderboardCallback().on_multirun_end(config)
    printed = capsys.readouterr().out
    assert "Leaderboard" in printed
    assert "strategy=ldam" in printed
    assert "data.path" not in printed


def test_the_leaderboard_exists_even_if_a_job_raises(run, tmp_path):
    done = run("-m", "strategy=plain,raising")
    assert done.code == 1
    assert len(table(tmp_path)) == 2


def test_a_single_run_has_no_leaderboard(run, tmp_path):
    done = run("strategy=plain")
    assert done.code == 0, done.err
    assert not list(tmp_path.rglob("leaderboard*"))


def test_an_unwritable_leaderboard_does_not_end_the_sweep(run, tmp_path):
    (tmp_path / "taken" / "leaderboard.csv" / "x").mkdir(parents=True)
    done = run("-m", "strategy=plain,weighted", "hydra.sweep.dir=taken")
    assert done.code == 0, done.err
    assert "not up to date" in done.out
    assert (tmp_path / "taken" / "1" / "metrics.json").is_file()
