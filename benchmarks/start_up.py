"""Start-up time: from the command to the end of the first optimizer step, or to the first prediction.

`python benchmarks/start_up.py` runs `python train.py` several times and stops each run after its first step. The first
run fills the caches of tokens and compiled Python and does not count. The packages with the longest imports are listed
as well. Further arguments are overrides: `python benchmarks/start_up.py data=reuters_r8`.

`python benchmarks/start_up.py --export RUN/onnx-int8` runs `python -m counterpoise.predict` on a file of one text
instead. CPU seconds depend less on other processes than seconds do.
"""

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from measure import report

from counterpoise.errors import UserError
from counterpoise.terminal import command_line

ROOT = Path(__file__).resolve().parent.parent

CALLBACK = """
import os
from pytorch_lightning.callbacks import Callback

class FirstStep(Callback):
    def on_train_batch_end(self, *arguments):
        os._exit(42)
"""
"""Callback that ends the process after the first step."""


def first_step(folder: Path, overrides: list[str], *flags: str) -> tuple[float, str]:
    """Return the seconds from the command to the end of the first optimizer step, and the standard error."""
    (folder / "first_step.py").write_text(CALLBACK)
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONPYCACHEPREFIX": str(folder / "compiled")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    stop = ["+callbacks.first_step._target_=first_step.FirstStep", f"hydra.run.dir={folder / 'run'}"]
    command = [sys.executable, *flags, str(ROOT / "train.py"), *overrides, *stop]
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode != 42:
        raise UserError(f"train.py ended before its first step:\n{done.stderr[-2000:]}")
    return seconds, done.stderr


def first_prediction(folder: Path, model: Path) -> tuple[float, float]:
    """Return the seconds and the CPU seconds of the command that predicts one text."""
    texts, output = folder / "texts.csv", folder / "predictions.csv"
    texts.write_text("text\ncocoa prices rise\n")
    command = [sys.executable, "-m", "counterpoise.predict", model, texts, "--text", "text", "--output", output]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise UserError(f"predict ended with an error:\n{done.stderr[-2000:]}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def report_first_prediction(model: Path, repeats: int, path: Path | None) -> None:
    """Measure the command that predicts one text, after one run that does not count, and print the medians."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [first_prediction(Path(folder), model) for _ in range(repeats + 1)][1:]
    row: dict[str, Any] = {"": "python -m counterpoise.predict"}
    for name, values in zip(("seconds", "CPU seconds"), zip(*runs, strict=True), strict=True):
        row |= {name: statistics.median(values), f"{name}, spread": f"{min(values):.2f} to {max(values):.2f}"}
    report("From the command to the first prediction", [row], path)


def imports(log: str) -> list[dict[str, Any]]:
    """Return one row for each of the slowest packages in a log of `python -X importtime`, in seconds.

    "own" is the time of the package's own modules, "total" includes the modules that it is the first to import.
    """
    own: dict[str, float] = defaultdict(float)
    whole: dict[str, float] = {}
    for line in log.splitlines():
        match = re.match(r"import time: +(\d+) \| +(\d+) \| ( *)(\S+)", line)
        if match:
            package = match[4].split(".")[0]
            own[package] += int(match[1]) / 1e6
            whole[package] = max(whole.get(package, 0.0), int(match[2]) / 1e6)
    rows = [{"package": "all", "own": sum(own.values()), "total": None}]
    largest = sorted(own, key=lambda package: -max(own[package], whole[package]))[:16]
    return rows + [{"package": each, "own": own[each], "total": whole[each]} for each in largest]


def main() -> None:
    """Read the command line, measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="overrides as for train.py")
    parser.add_argument("--export", type=Path, help="exported folder: measure the first prediction with it instead")
    parser.add_argument("--repeats", type=int, default=5, help="measured runs (default: 5)")
    parser.add_argument("--json", type=Path, help="JSON file to write; imports are written to NAME-imports.json")
    arguments = parser.parse_args()
    if arguments.export:
        if arguments.overrides:
            parser.error("overrides have no effect with --export")
        report_first_prediction(arguments.export, arguments.repeats, arguments.json)
        return
    with tempfile.TemporaryDirectory() as folder:
        first, _ = first_step(Path(folder), arguments.overrides)
        seconds = [first_step(Path(folder), arguments.overrides)[0] for _ in range(arguments.repeats)]
        _, log = first_step(Path(folder), arguments.overrides, "-X", "importtime")
    spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
    row = {"": "python train.py", "seconds": statistics.median(seconds), "spread": spread, "first run": first}
    report("From the command to the first optimizer step", [row], arguments.json)
    beside = arguments.json and arguments.json.with_stem(f"{arguments.json.stem}-imports")
    report("Imports, seconds (logging them adds a little)", imports(log), beside)


if __name__ == "__main__":
    command_line(main)
