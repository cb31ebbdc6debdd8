"""No file ends a process: what crashes the native code of a reader is refused before it gets there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("readers_fuzz.py")


@pytest.mark.parametrize(("first", "count"), [(0, 150), pytest.param(150, 2000, marks=pytest.mark.soak)])
def test_odd_files_are_read_or_refused(first, count, tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path, str(first), str(count)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    seed = (tmp_path / "seed").read_text()
    assert done.returncode == 0, f"seed {seed} ended with {done.returncode}: {done.stderr[-2000:]}"
    assert done.stdout.endswith("done\n")
