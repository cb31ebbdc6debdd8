"""A command line whose user's mistakes are one line and exit code 2."""

import errno
import functools
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from counterpoise.errors import UserError, nearest


def command_line(main: Callable[[], Any]) -> None:
    """Runs `main`; a user's mistake becomes one line and exit code 2, with a traceback only if `traceback=true`.

    Ctrl-C is exit code 130, as a shell has it.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then lets errors through instead of printing and exiting itself
    try:
        main()
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        line = user_error_line(error)
        if line is None or "traceback=true" in sys.argv:
            raise
        stop(line)


def stop(line: str) -> NoReturn:
    """Prints the line and exits with code 2."""
    print(f"error: {line}", file=sys.stderr)
    sys.exit(2)


def check_types(config: Mapping[str, Any]) -> None:
    """Raises UserError for a value of another type than its default's, given the resolved configuration of a Hydra job.

    Numbers, truth values, lists and parts with keys of their own are checked. Keys that were added are left to what is
    made of them, but in `loader`.
    """
    job = HydraConfig.get()
    groups = [each for each in job.overrides.task if each.partition("=")[0].lstrip("+~") in job.runtime.choices]
    defaults = _defaults(str(job.job.config_name), tuple(groups))
    for key, value in _leaves(config).items():
        if key.startswith("loader.") and key not in defaults:
            raise UserError(f"the configuration has no key '{key}'.{nearest(key, defaults)}")
        if value is None and (key in _OPTIONAL or key.startswith(_NULLABLE)):
            continue
        shown, default = "null" if value is None else value, defaults.get(key)
        if below := [each for each in defaults if each.startswith(f"{key}.")]:
            if (group := key.replace(".", "/")) in job.runtime.choices:
                raise UserError(f"{key}={shown}: to choose one write {group}={value or 'NAME'}, with a slash")
            example = next((each for each in below if not each.rpartition(".")[2].startswith("_")), below[0])
            raise UserError(f"{key}={shown}: it has keys of its own, such as {example}={defaults[example]}")
        accepted, expected = _KINDS.get(_OPTIONAL.get(key, type(default)), (object, ""))
        fits = isinstance(value, accepted) and (not isinstance(value, bool) or isinstance(default, bool))
        if expected and not fits and key not in _SEVERAL_KINDS:
            usual = "or null" if default is None else f"such as {default}"
            raise UserError(f"{key}={shown}: {expected} is expected here, {usual}, the default")
    if not 0 <= config["seed"] < 2**32:
        raise UserError(f"seed={config['seed']}: use a whole number from 0 to {2**32 - 1}")


_KINDS: dict[type, tuple[Any, str]] = {
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    float: (int | float, "a number"),
    list: (list, "a list"),
    dict: ((), "what has keys of its own"),
}
_OPTIONAL: dict[str, type] = {
    "micro_batch_size": int,
    "loader.train_limit": int,
    "encoder.unfreeze_at_epoch": int,
    "encoder.hidden_dropout": float,
    "encoder.attention_dropout": float,
    "encoder.download": dict,
    "data.download": dict,
    "strategy.loss.label_weights": dict,
    "strategy.schedule": dict,
    "strategy.second_stage": dict,
}
"""What keys take that may be null."""
_NULLABLE = ("trainer.", "callbacks.", "logger.")
_SEVERAL_KINDS = ("trainer.devices", "trainer.fast_dev_run", "trainer.val_check_interval")


@functools.lru_cache
def _defaults(config_name: str, groups: tuple[str, ...]) -> dict[str, Any]:
    """Returns the values before any is overridden, by their dotted keys, given the choices of groups."""
    return _leaves(OmegaConf.to_container(compose(config_name, list(groups))))


def _leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the values of nested mappings by their dotted keys."""
    if not isinstance(node, Mapping):
        return {prefix: node}
    below = (_leaves(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in node.items())
    return {key: value for leaves in below for key, value in leaves.items()}


def user_error_line(error: BaseException | None) -> str | None:
    """Returns the one line for a user's mistake, or None for anything else."""
    first = error
    while error is not None:
        if isinstance(error, UserError):
            return str(error)
        error = error.__cause__ or error.__context__
    if isinstance(first, PermissionError) or getattr(first, "errno", None) in (errno.ENOSPC, errno.EROFS):
        return f"{getattr(first, 'filename', None) or 'disk'}: {getattr(first, 'strerror', first)}"
    if isinstance(first, OverrideParseException):
        return f"cannot read '{first.override}': {_config_line(str(first))}"
    if isinstance(first, ValueError) and "Config group override must be a string" in str(first):
        return "null is no choice for a group: to leave a group out write '~GROUP', as in '~strategy/schedule'"
    if isinstance(first, HydraException | OmegaConfBaseException):
        return _config_line(str(first))
    if isinstance(first, RuntimeError):
        from counterpoise.errors import out_of_memory  # takes seconds to import where nothing is trained

        if out_of_memory(first):
            return (
                "out of memory: lower micro_batch_size, the texts of a forward and backward pass, "
                "loader.eval_batch_size, those of an evaluation batch, or encoder.max_length"
            )
    return None


def _config_line(message: str) -> str:
    """Returns Hydra's message about a configuration as one line, with the nearest name that would be right."""
    if found := re.search(r"Could not find '(?P<group>[^']+)/(?P<name>[^'/]+)'", message):
        listed = message.partition("Available options")[2].partition(":\n")[2].partition("\nConfig")[0]
        options = listed.split()
        group, name = found["group"], found["name"]
        return f"{group}={name}: there is no such {group}.{nearest(name, options)} There are {', '.join(options)}"
    if found := re.search(r"Missing mandatory value: (?P<key>\S+)", message):
        return f"{found['key']} has no value: give it one, {found['key']}=..."
    unknown = (
        r"(?P<what>\w+)(\.__\w+__)?\(\) got an unexpected keyword argument '(?P<name>\w+)'.*full_key: (?P<key>\S+)"
    )
    if found := re.search(unknown, message, re.DOTALL):
        key = f"{found['key']}.{found['name']}"
        return f"{key}: {found['what']} takes no such setting; ~{key} leaves it out"
    call = r"Error in call to target '[^']+':\s+\w+\((?P<text>.*)\)\s+full_key: (?P<key>\S+)"
    if found := re.search(call, message, re.DOTALL):
        return f"{found['key']}: {' '.join(found['text'].strip(chr(34) + chr(39)).split())}"
    line = " ".join(message.replace(", set env var HYDRA_FULL_ERROR=1 to see chained exception.", ":").split())
    if found := re.search(r"Could not override '(?P<key>[^']+)'", message):
        key = found["key"].split(".")[-1]
        conf = Path(sys.argv[0]).resolve().parent / "conf"
        if (conf / (group := found["key"].replace(".", "/"))).is_dir():
            return f"{found['key']}: to choose one write {group}=NAME, with a slash"
        keys = {k for file in conf.rglob("*.yaml") for k in re.findall(r"^\s*(\w+):", file.read_text(), re.M)}
        line = f"the configuration has no key '{found['key']}'.{nearest(key, keys - {key})}"
        takes_more = found["key"].startswith(("trainer.", "callbacks.", "logger."))
        return f"{line} To add it all the same: +{found['key']}=..." if takes_more else line
    return line


console = Console()
