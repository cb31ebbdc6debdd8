"""The configuration of a run folder, read without importing PyTorch."""

import math
from pathlib import Path
from typing import Any

from counterpoise.analysis.job_folders import ENSEMBLE_FILE, check_finished
from counterpoise.errors import UserError
from counterpoise.saved_files import read_json, read_yaml, reading

PARTS = ("data", "encoder", "head", "decision", "buckets")
"""Parts of the configuration that the commands need."""


def read_config(run: Path) -> dict[str, Any]:
    """Return the configuration of a finished run.

    Raises:
        UserError: The folder has no config.yaml, or it is not the configuration of a run, or the run has not finished.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise UserError(f"{run} is not a run folder: it has no config.yaml (an exported model has an export.json)")
    check_finished(run)
    config = read_yaml(path)
    absent = [part for part in PARTS if not isinstance(config.get(part), dict) or "_target_" not in config[part]]
    if absent:
        raise UserError(f"{path} is not the configuration of a run: it does not describe {', '.join(absent)}")
    return config


def read_ensemble(folder: Path) -> dict[str, Any]:
    """Return the content of an ensemble's `ensemble.json`: labels, members, factors and baseline.

    Raises:
        UserError: The file is damaged.
    """
    path = folder / ENSEMBLE_FILE
    content = {"baseline": None, **read_json(path)}
    with reading(path):
        for key, kind in (("labels", str), ("members", str), ("factors", float)):
            if not content[key] or any(type(value) is not kind for value in content[key]):
                raise ValueError(f"{key} is not a list of {kind.__name__}")
        if not all(map(math.isfinite, content["factors"])):
            raise ValueError("a factor is not finite")
        for name in content["members"]:
            if Path(name).is_absolute() or ".." in Path(name).parts or (folder / name / ENSEMBLE_FILE).exists():
                raise ValueError(f"{name} is not a model within the folder")
    return content
