"""Type checks of the resolved configuration: every value has the type of its default."""

import functools
import json
from collections.abc import Mapping
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from counterpoise.errors import UserError, nearest

MAX_SEED = 2**32 - 1

_ACCEPTED: dict[type, tuple[Any, str]] = {
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    float: (int | float, "a number"),
    list: (list, "a list"),
    dict: ((), "a mapping with keys of its own"),
}
"""By type of the default: the accepted types and their description."""

_OPTIONAL: dict[str, type] = {
    "micro_batch_size": int,
    "loader.train_limit": int,
    "loader.validation_limit": int,
    "encoder.unfreeze_at_epoch": int,
    "encoder.hidden_dropout": float,
    "encoder.attention_dropout": float,
    "encoder.download": dict,
    "encoder.mirror": dict,
    "data.download": dict,
    "baseline.word_ngrams": list,
    "baseline.char_ngrams": list,
    "strategy.loss.label_weights": dict,
    "strategy.schedule": dict,
    "strategy.second_stage": dict,
}
"""Keys that also accept null, with the type of their other values."""
_OPTIONAL_GROUPS = ("trainer.", "callbacks.", "logger.")
"""Every key below these also accepts null."""
_SEVERAL_TYPES = (
    "trainer.devices",
    "trainer.deterministic",
    "trainer.fast_dev_run",
    "trainer.val_check_interval",
    "strategy.second_stage.tau",
)
"""Keys whose type is checked by the object that receives them."""


def check_types(config: Mapping[str, Any]) -> None:
    """Raise UserError for a value whose type differs from the type of its default.

    Numbers, booleans, lists and mappings are checked. Added keys have no default and are checked by the object that
    receives them, except below `loader`, where they are refused.

    Args:
        config: Resolved configuration of the current Hydra job.
    """
    choices, defaults = HydraConfig.get().runtime.choices, _current_defaults()
    for key, value in flatten(config).items():
        if key.startswith("loader.") and key not in defaults:
            raise UserError(f"the configuration has no key '{key}'.{nearest(key, defaults)}")
        if value is None and (key in _OPTIONAL or key.startswith(_OPTIONAL_GROUPS)):
            continue
        if below := [default for default in defaults if default.startswith(f"{key}.")]:
            raise UserError(_not_a_value(key, value, below, defaults, key.replace(".", "/") in choices))
        default = defaults.get(key)
        accepted, expected = _ACCEPTED.get(_OPTIONAL.get(key, type(default)), (object, ""))
        fits = isinstance(value, accepted) and (not isinstance(value, bool) or isinstance(default, bool))
        if expected and not fits and key not in _SEVERAL_TYPES:
            example = "or null" if default is None else f"such as {default}"
            raise UserError(f"{key}={_shown(value)}: use {expected}, {example} (the default)")
    if not 0 <= config["seed"] <= MAX_SEED:
        raise UserError(f"seed={config['seed']}: use a whole number from 0 to {MAX_SEED}")


def changed_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings, by dotted key, whose value differs from the default of the chosen options of the groups.

    Args:
        config: Resolved configuration of the current Hydra job.
    """
    defaults, absent = _current_defaults(), object()
    return {key: value for key, value in flatten(config).items() if defaults.get(key, absent) != value}


def _current_defaults() -> dict[str, Any]:
    """Return the default values of the current Hydra job, without interpolations resolved."""
    job = HydraConfig.get()
    groups = [item for item in job.overrides.task if item.partition("=")[0].lstrip("+~") in job.runtime.choices]
    return _defaults(str(job.job.config_name), tuple(groups), tuple(job.searchpath))


def _not_a_value(key: str, value: Any, below: list[str], defaults: Mapping[str, Any], is_group: bool) -> str:
    """Return the message for a value given to a key that has keys below it."""
    if is_group:
        group = key.replace(".", "/")
        return f"{key}={_shown(value)}: to choose an option write {group}={value or 'NAME'}, with a slash"
    example = next((name for name in below if not name.rpartition(".")[2].startswith("_")), below[0])
    return f"{key}={_shown(value)}: set the keys below it, such as {example}={defaults[example]}"


def _shown(value: Any) -> Any:
    return "null" if value is None else value


@functools.lru_cache
def _defaults(config_name: str, groups: tuple[str, ...], search_path: tuple[str, ...]) -> dict[str, Any]:
    """Return the default values by dotted key, for the chosen options of configuration groups in these folders."""
    folders = ",".join(json.dumps(folder, ensure_ascii=False) for folder in search_path)
    return flatten(OmegaConf.to_container(compose(config_name, [f"hydra.searchpath=[{folders}]", *groups])))


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of nested mappings by dotted key."""
    if not isinstance(node, Mapping):
        return {prefix: node}
    below = (flatten(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in node.items())
    return {key: value for leaves in below for key, value in leaves.items()}
