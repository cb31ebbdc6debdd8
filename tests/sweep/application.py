"""A small Hydra application whose jobs end in every way, started in its own process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import counterpoise
from commandline import ROOT

APPLICATION = """
import json, os, pathlib, signal, subprocess, sys, time
import hydra
from hydra.core.hydra_config import HydraConfig

@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(config):
    settings = HydraConfig.get()
    folder = pathlib.Path(settings.runtime.output_dir)
    with (folder / "attempts").open("a") as file:
        file.write("x")

    def write(state):
        status = {"state": state, "overrides": list(settings.overrides.task), "seconds": 1.0, "value": 0.5}
        (folder / "status.json").write_text(json.dumps(status))

    write("running")
    (folder / "gpu").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    if not pathlib.Path("repaired").exists():
        if config.seed in config.killed:
            os.kill(os.getpid(), signal.SIGKILL)
        match config.how:
            case "sigkill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "abort":
                os.abort()
            case "exit":
                os._exit(3)
            case "exit_0":
                os._exit(0)
            case "leave":
                sys.exit(4)
            case "bug":
                raise ValueError("a bug")
            case "hang":
                time.sleep(600)
            case "hog":
                block = b"x" * 2**29
                time.sleep(600)
            case "family" | "family2":
                child = subprocess.Popen(["sleep", "600"])
                (folder / "pids").write_text(f"{os.getpid()} {child.pid}")
                time.sleep(600)
    (folder / "metrics.json").write_text(json.dumps({"test": {"macro_f1": 0.5}}))
    write("finished")
    if config.how == "exit_after":
        os._exit(3)
    return 0.5

main()
"""
CONFIG = """
defaults:
  - override hydra/launcher: processes
how: plain
seed: 0
killed: [] # seeds
hydra:
  searchpath: ["file://%s"]
  sweep: {dir: sweep}
"""


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start a sweep of the application in `folder`."""
    (folder / "app.py").write_text(APPLICATION)
    (folder / "config.yaml").write_text(CONFIG % (ROOT / "conf"))
    return subprocess.Popen(
        [sys.executable, "app.py", "-m", *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(counterpoise.__file__).parents[1]),
            "COLUMNS": "80",
            "CUDA_VISIBLE_DEVICES": "7,8",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Background jobs of a shell ignore SIGINT, and child processes inherit this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a sweep of the application to its end."""
    process = start(folder, *arguments)
    try:
        out, err = process.communicate(timeout=900)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
