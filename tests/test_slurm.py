"""The scripts for Slurm in docs/devices.md."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from commandline import ROOT

SCRIPTS = re.findall(r"```sh\n(#!/bin/bash\n.*?)```", (ROOT / "docs/devices.md").read_text(encoding="utf-8"), re.DOTALL)
(ARRAY,) = (script for script in SCRIPTS if "--array" in script)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_valid(script):
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert script.startswith("#!/bin/bash\n#SBATCH --")


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Programs that write their arguments to files. Python runs until it is stopped, with the exit code 143."""
    (tmp_path / "python").write_text("""#!/bin/bash
trap 'kill $!; exit 143' TERM
sleep 60 &
echo "$@" > python.txt
[ -e finished ] && kill $! || wait $!
""")
    (tmp_path / "scontrol").write_text('#!/bin/bash\necho "$@" > scontrol.txt\n')
    for name in ("python", "scontrol"):
        (tmp_path / name).chmod(0o755)
    return tmp_path


def start(folder: Path, task: int) -> "subprocess.Popen[bytes]":
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    variables = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(task), "PATH": path}
    return subprocess.Popen(["bash", "-c", ARRAY], cwd=folder, env={**os.environ, **variables})


def test_a_task_of_the_array_that_is_stopped_is_queued_again(programs):
    job = start(programs, 3)
    while not (programs / "python.txt").exists() or not (programs / "python.txt").read_text():
        assert job.poll() is None
        time.sleep(0.01)
    job.send_signal(signal.SIGTERM)
    job.wait(60)
    run = "train.py strategy=weighted seed=1 hydra.run.dir=outputs/array_7/3 ckpt=last\n"
    assert (programs / "python.txt").read_text() == run
    assert (programs / "scontrol.txt").read_text() == "requeue 7_3\n"


def test_a_task_of_the_array_that_finishes_is_not_queued_again(programs):
    (programs / "finished").touch()
    assert start(programs, 5).wait(60) == 0
    assert "strategy=combined seed=1" in (programs / "python.txt").read_text()
    assert not (programs / "scontrol.txt").exists()
