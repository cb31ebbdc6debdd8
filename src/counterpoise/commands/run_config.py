"""The configuration of a run folder, read without importing PyTorch."""

from pathlib import Path
from typing import Any

import yaml

from counterpoise.errors import UserError


def read_config(run: Path) -> dict[str, Any]:
    """Return the configuration of a run folder.

    Raises:
        UserError: The folder has no config.yaml.
    """
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run} is not a run folder: it has no config.yaml (an exported model has an export.json)")
    return yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
