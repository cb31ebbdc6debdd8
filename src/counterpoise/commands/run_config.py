"""The configuration of a run folder, read without importing PyTorch."""

import json
from pathlib import Path
from typing import Any

import yaml

from counterpoise.errors import UserError

ENSEMBLE_FILE = "ensemble.json"
"""File that the folder of an ensemble holds, and a run folder does not."""


def read_config(run: Path) -> dict[str, Any]:
    """Return the configuration of a run folder.

    Raises:
        UserError: The folder has no config.yaml.
    """
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run} is not a run folder: it has no config.yaml (an exported model has an export.json)")
    return yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))


def read_ensemble(folder: Path) -> dict[str, Any]:
    """Return the content of an ensemble's `ensemble.json`: labels, members, factors and baseline.

    Raises:
        UserError: The file is damaged.
    """
    path = folder / ENSEMBLE_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for key, kind in (("labels", list), ("members", list), ("factors", list)):
            if not isinstance(content[key], kind):
                raise ValueError(f"{key} is not a {kind.__name__}")
        for name in content["members"]:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"{name} is outside the folder")
        return {"baseline": None, **content}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({' '.join(str(error).split())})") from error
