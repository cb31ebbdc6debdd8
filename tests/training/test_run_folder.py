"""One run at a time writes to a run folder."""

import os
import signal
from pathlib import Path

import pytest

from commandline import run, setting
from counterpoise.errors import UserError
from counterpoise.io import exclusive


@pytest.fixture
def held(tmp_path: Path):
    """The process that holds the lock of the folder "run"."""
    (tmp_path / "run").mkdir()
    receiving, sending = os.pipe()
    holder = os.fork()
    if not holder:
        with exclusive(tmp_path / "run/.run.lock", "held"):
            os.write(sending, b"held")
            signal.pause()
    assert os.read(receiving, 4) == b"held"
    yield holder
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)


def test_a_second_run_in_the_folder_of_a_run_is_refused_and_changes_no_result(held, texts, tiny_encoder, tmp_path):
    (tmp_path / "run/status.json").write_text("that of the first run")
    done = run(tmp_path / "run", *setting(texts, tiny_encoder))
    assert done.code == 2, done.err
    assert f"another run is writing to {tmp_path / 'run'}" in done.error
    assert len(done.err.splitlines()) == 1
    assert (tmp_path / "run/status.json").read_text() == "that of the first run"
    assert not (tmp_path / "run/config.yaml").exists()


def test_a_run_that_was_killed_frees_its_folder(tmp_path):
    lock = tmp_path / ".run.lock"
    holder = os.fork()
    if not holder:
        with exclusive(lock, "held"):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(holder, 0)
    with exclusive(lock, "held"), pytest.raises(UserError, match="held"), exclusive(lock, "held"):
        pass


@pytest.mark.parametrize(("state", "warned"), [("failed", True), ("running", True), ("finished", False)])
def test_a_run_that_starts_anew_over_an_interrupted_one_says_so(state, warned, texts, tiny_encoder, tmp_path, caplog):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/checkpoints/last.ckpt").write_bytes(b"")
    (tmp_path / "run/status.json").write_text(f'{{"state": "{state}"}}')
    done = run(tmp_path / "run", *setting(texts, tiny_encoder), "monitor=val/nothing", "baseline=none")
    assert done.code == 2
    assert ("ckpt=last continues it" in " ".join((done.out + done.err + caplog.text).split())) == warned
