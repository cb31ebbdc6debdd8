"""The process of a run, as `status.json` records it: whether it is alive although no end was written."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """Return host, process id and start time of this process; the start time is None where there is no /proc."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _start_time(os.getpid())}


def has_died(process: Mapping[str, Any] | None) -> bool:
    """Return whether a recorded process has ended. False if that cannot be known: on another host, or not recorded.

    Args:
        process: As `this_process` returned it.
    """
    if not process or process["host"] != socket.gethostname():
        return False
    try:
        os.kill(process["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    # The system gives the id of an ended process to another one, and a zombie keeps its own.
    return process["started"] != _start_time(process["pid"])


def _start_time(pid: int) -> str | None:
    """Return when a process started, in clock ticks since the boot; "ended" for a zombie, None without /proc."""
    if not Path("/proc/self/stat").is_file():
        return None
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return "ended"
    return "ended" if state in ("Z", "X") else fields[18]
