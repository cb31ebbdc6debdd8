"""What a run prints first: the settings that the user changed, the most important others, and where all of them are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from counterpoise.terminal import console, encodable

SHOWN_GROUPS = ("data", "encoder", "strategy")
"""Groups whose chosen option is printed."""
SHOWN_KEYS = (
    "encoder.max_length",
    "trainer.max_epochs",
    "trainer.max_steps",
    "loader.batch_size",
    "loader.train_limit",
    "optim.encoder_lr",
    "optim.head_lr",
    "monitor",
    "seed",
)
"""Settings that are printed with their values, unless they are null or without a limit."""


def show_settings(
    config: Mapping[str, Any], flat: Mapping[str, Any], choices: Mapping[str, str], overrides: Sequence[str], file: str
) -> None:
    """Print the overrides of the command line, the key settings, and where all settings are.

    Args:
        config: Resolved configuration. With `verbose=true` it is printed, too.
        flat: The same by dotted key.
        choices: Chosen option of each configuration group.
        overrides: Overrides of the command line.
        file: Path of config.yaml, as shown.
    """
    if config.get("verbose"):
        _show_tree(config)
    given = {override.partition("=")[0].lstrip("+~") for override in overrides}
    used = [f"{group}={choices[group]}" for group in SHOWN_GROUPS if group in choices and group not in given]
    used += [f"{key}={flat[key]}" for key in SHOWN_KEYS if key not in given and flat.get(key) not in (None, -1)]
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column(overflow="fold")
    rows.add_row("changed", Text(encodable(" ".join(overrides) or "nothing: these are the defaults")))
    rows.add_row("used", Text(encodable(" ".join(used))))
    rows.add_row("all", Text(encodable(f"{file} (verbose=true prints them)"), style="dim"))
    console.print(rows)


def shown_path(path: Path) -> str:
    """Return a path relative to the directory in which the program was started, if it is inside it."""
    start = start_directory()
    return str(path.relative_to(start) if path.is_relative_to(start) else path)


def start_directory() -> Path:
    """Return the directory in which the program was started: with `hydra.job.chdir=true` a run works in another one."""
    return Path(HydraConfig.get().runtime.cwd) if HydraConfig.initialized() else Path.cwd()


def _show_tree(config: Mapping[str, Any]) -> None:
    """Print the resolved configuration as a tree with one branch per group."""
    tree = Tree("config", guide_style="dim")
    for key, value in config.items():
        if isinstance(value, Mapping):
            text = yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True).rstrip()
            tree.add(f"[bold]{key}").add(Syntax(text, "yaml", background_color="default", word_wrap=True))
        else:
            tree.add(Text.assemble((key, "bold"), f": {value}"))
    console.print(tree)
