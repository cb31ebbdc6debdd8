"""A run that was killed is recognised although its status is still that of a running one."""

import json
import os
import signal
import subprocess
import sys

from counterpoise.analysis import leaderboard
from counterpoise.analysis.run_process import has_died, this_process

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def test_this_process_is_alive_and_an_ended_one_is_not():
    mine = this_process()
    assert not has_died(mine)
    other = subprocess.Popen(SLEEP)
    try:
        process = mine | {"pid": other.pid}
        assert has_died(process), "another process has the id"
        os.kill(other.pid, signal.SIGKILL)
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        assert has_died(process), "a zombie"
    finally:
        other.wait()
    assert has_died(process)


def test_processes_of_other_hosts_and_older_versions_are_not_judged():
    assert not has_died(this_process() | {"host": "elsewhere", "pid": 1})
    assert not has_died(None)


def test_a_killed_run_is_listed_as_failed(tmp_path):
    status = {"state": "running", "reason": None, "overrides": ["seed=1"], "seconds": 1.0, "process": this_process()}
    (tmp_path / "status.json").write_text(json.dumps(status))
    assert leaderboard.job(tmp_path)["state"] == "running"
    status["process"] |= {"started": "1"}
    (tmp_path / "status.json").write_text(json.dumps(status))
    row = leaderboard.job(tmp_path)
    assert row["state"] == "failed"
    assert "killed" in row["reason"]
