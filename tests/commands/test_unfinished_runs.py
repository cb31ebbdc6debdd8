"""Every command refuses a run that has not finished, in one line that says how it is continued."""

import json
import shutil
import socket
from pathlib import Path

import pytest

import counterpoise
import finished
from commandline import call
from counterpoise.analysis.job_folders import check_finished
from counterpoise.analysis.run_process import this_process
from counterpoise.commands import compare, ensemble, evaluate, export, predict, serve
from counterpoise.errors import UserError
from refusals import user_error

PARTS = {part: {"_target_": "counterpoise.none"} for part in ("data", "encoder", "head", "decision", "buckets")}
DEAD = {"host": socket.gethostname(), "pid": 2**22 + 1, "started": "1"}
COMMANDS = {
    "predict": (predict.main, ["RUN", "FILE"]),
    "evaluate": (evaluate.main, ["RUN", "FILE"]),
    "export": (export.main, ["RUN"]),
    "export hf": (export.main, ["RUN", "--format", "hf"]),
    "serve": (serve.main, ["RUN"]),
    "ensemble": (ensemble.main, ["RUN", "--output", "OUT"]),
    "compare": (compare.main, ["RUN", "--output", "OUT"]),
}


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run that was stopped, with checkpoints."""
    folder = finished.run(tmp_path / "job", "seed=1", config=PARTS, state="failed")
    (folder / "checkpoints").mkdir()
    for name in ("best.ckpt", "last.ckpt"):
        (folder / "checkpoints" / name).touch()
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_a_stopped_run_is_refused_by_every_command(command, stopped, texts, tmp_path, monkeypatch, capsys):
    main, arguments = COMMANDS[command]
    monkeypatch.chdir(tmp_path)
    values = {"RUN": stopped, "FILE": texts["test"], "OUT": tmp_path / "out"}
    assert call(main, monkeypatch, *(values.get(each, each) for each in arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "not a finished run: it failed, no luck" in line
    assert line.endswith(f"ckpt=last hydra.run.dir={stopped}")
    assert not (tmp_path / "out").exists()


def test_a_sweep_without_a_finished_run_is_refused_with_what_continues_it(stopped, monkeypatch, capsys):
    assert call(compare.main, monkeypatch, stopped.parent) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "job job: failed, no luck" in line
    assert line.endswith(f"hydra.sweep.dir={stopped.parent}")


def test_a_stopped_run_is_not_loaded(stopped):
    with pytest.raises(UserError, match="ckpt=last"):
        counterpoise.load(stopped)


@pytest.mark.parametrize(
    ("status", "problem", "action"),
    [
        ({"state": "failed", "reason": "stopped by SIGTERM"}, "it failed, stopped by SIGTERM", "ckpt=last"),
        ({"state": "failed"}, "no reason given", "ckpt=last"),
        ({"state": "running", "process": DEAD}, "it was killed", "ckpt=last"),
        ({"state": "running", "process": this_process()}, "it is running", "Wait for its end"),
        ({"state": "running", "process": DEAD | {"host": "other"}}, "it is running", "Wait for its end"),
        ({"state": "pruned", "reason": "worse"}, "it was pruned, worse", "Name a finished trial"),
        ({"state": "running", "process": "x"}, "status.json is damaged", ""),
        ([], "status.json is damaged", ""),
    ],
)
@pytest.mark.parametrize("kind", ["run", "run without a checkpoint", "job of a sweep"])
def test_the_message_says_what_to_do(status, problem, action, kind, stopped, tmp_path):
    (stopped / "status.json").write_text(json.dumps(status))
    if kind == "job of a sweep":
        (tmp_path / "multirun.yaml").touch()
        action = action.replace("ckpt=last", f"hydra.sweep.dir={tmp_path}")
    if kind == "run without a checkpoint":
        shutil.rmtree(stopped / "checkpoints")
        action = action.replace("ckpt=last", "Train it again")
    line = user_error(check_finished, stopped)
    assert "\n" not in line
    assert problem in line
    assert action in line


def test_finished_runs_and_folders_without_a_status_are_accepted(tmp_path):
    check_finished(finished.run(tmp_path / "run"))
    check_finished(tmp_path)
