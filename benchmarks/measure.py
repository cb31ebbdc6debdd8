"""Interleaved timing, peak memory and result tables, shared by the benchmarks."""

import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table


def timed(function: Callable[[], Any]) -> float:
    """Return the duration of a call in seconds."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def interleaved(candidates: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Return the results of each candidate, `repeats` numbers each.

    The candidates run in turn, in alternating order, so that changes of the machine's speed affect all of them.
    """
    measured: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(repeats):
        for name in list(candidates)[:: -1 if turn % 2 else 1]:
            measured[name].append(candidates[name]())
    return measured


def ratio(ours: Sequence[float], peer: Sequence[float]) -> tuple[float, float, float]:
    """Return median, minimum and maximum of ours / peer over the repeats. Each ratio is of one repeat."""
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a call in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def peak_memory(function: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    """Return the result of a call in a new process, and its peak resident memory in bytes beyond the imports."""
    return in_fresh_process(_with_peak, function, *arguments)


def peak_so_far() -> int:
    """Return the peak resident memory of this process in bytes. Linux only.

    `resource.getrusage` is not used, because a process inherits the peak of its parent there.
    """
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def machine() -> dict[str, Any]:
    """Return hardware and versions that the results depend on."""
    return {
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def report(title: str, rows: Sequence[Mapping[str, Any]], path: Path | None = None) -> None:
    """Print rows with equal keys as a table. With a path, write them and the machine as JSON, too."""
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(_shown(value) for value in row.values()))
    Console(width=None if os.isatty(1) else 160).print(table)
    if path is not None:
        path.write_text(json.dumps({"title": title, "machine": machine(), "rows": list(rows)}, indent=2))


def _with_peak(function: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    before = psutil.Process().memory_info().rss
    result = function(*arguments)
    return result, max(0, peak_so_far() - before)


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
