"""Every numeric setting of every part below conf/strategy refuses what is not a finite number, and names itself."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from scipy.sparse import csr_matrix

from counterpoise.balance import ClassIndex
from counterpoise.errors import UserError

CONF = Path(__file__).parents[2] / "conf"
GROUPS = ("sampler", "weights", "loss", "schedule", "second_stage")
INDICES = [
    ClassIndex.from_targets(np.repeat(np.arange(3), [90, 9, 1]), 3),
    ClassIndex.from_targets(csr_matrix(np.repeat(np.eye(3, dtype=bool), [90, 9, 1], axis=0)), 3),
]
WRONG = [float("nan"), float("inf"), -float("inf"), "many", [1], -3]


@cache
def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=list(overrides))


def leaves(node: DictConfig, key: str) -> list[str]:
    """The keys of all numbers, switches and choices below a node."""
    found = []
    for name, value in node.items():
        if isinstance(value, DictConfig):
            found += leaves(value, f"{key}.{name}")
        elif isinstance(value, bool | int | float) or value == "auto" or name in ("epoch_size", "max_ratio"):
            found.append(f"{key}.{name}")
    return found


def settings() -> list[tuple[tuple[str, ...], str]]:
    """Overrides that select each part, and the key of each of its settings."""
    found = [(("strategy=plain",), key) for key in ("strategy.max_ratio", "strategy.allow_overcorrection")]
    for group in GROUPS:
        for path in sorted((CONF / "strategy" / group).glob("*.yaml")):
            overrides = ("strategy=plain", f"strategy/{group}={path.stem}")
            if path.stem == "manual":
                found.append(((*overrides, "strategy.weights.by_label=[1,2,3]"), "strategy.weights.by_label[1]"))
                continue
            part = composed(*overrides).strategy[group]
            found += [(overrides, key) for key in leaves(part, f"strategy.{group}") if not key.endswith("_")]
    for name in ("class_balanced_focal", "cb_ntr_focal"):
        found.append(((f"strategy={name}",), "strategy.loss.label_weights.beta"))
    return found


SETTINGS = settings()


def use(config: DictConfig) -> None:
    """Do with the strategy what a run does before training, for the task that it supports."""
    made = instantiate(config.strategy)
    errors = []
    for index in INDICES:
        try:
            fitted = made.fit(list("abc"), index, 5)
            if made.second_stage is not None:
                made.second_stage.check(fitted.final.correction, fitted.final.loss, None)
            return
        except UserError as error:
            errors.append(error)
    raise errors[0] if "data is" not in str(errors[0]) else errors[1]


def refusal(overrides: tuple[str, ...], key: str, value: object) -> str | None:
    """The message with which a value is refused; None if it is accepted."""
    config = composed(*overrides).copy()
    OmegaConf.update(config, key, value, force_add=True)
    try:
        use(config)
    except UserError as error:
        return str(error)
    except InstantiationException as error:
        # Anything else than a UserError is no refusal.
        return str(error.__cause__) if isinstance(error.__cause__, UserError) else None
    return None


def named(key: str, message: str) -> bool:
    """Whether a message names the setting: by its last two keys, or a manual weight by its class."""
    if "by_label" in key:
        return "the weight of 'b'" in message
    return ".".join(key.split(".")[-2:]).replace("label_weights.", "weights.") in message


def test_the_settings_of_all_parts_are_found():
    keys = {key for _, key in SETTINGS}
    for key in ("sampler.alpha", "sampler.threshold", "weights.beta", "loss.gamma", "loss.kappa", "schedule.start"):
        assert f"strategy.{key}" in keys
    assert {"strategy.second_stage.tau", "strategy.second_stage.lr", "strategy.second_stage.sampler.alpha"} <= keys


@pytest.mark.parametrize(("overrides", "key"), SETTINGS, ids=[f"{o[-1]} {k}" for o, k in SETTINGS])
@pytest.mark.parametrize("value", WRONG, ids=str)
def test_what_is_no_finite_number_is_refused_by_name(overrides, key, value):
    if value == -3 and key.endswith(".mu"):
        pytest.skip("a centre may be negative")
    message = refusal(overrides, key, value)
    assert message is not None
    assert named(key, message)
    assert "\n" not in message


@pytest.mark.parametrize(("overrides", "key"), SETTINGS, ids=[f"{o[-1]} {k}" for o, k in SETTINGS])
def test_a_switch_is_no_number_and_a_number_no_switch(overrides, key):
    current = OmegaConf.select(composed(*overrides), key)
    for value in [1, 0, "yes"] if isinstance(current, bool) else [True, False]:
        message = refusal(overrides, key, value)
        assert message is not None
        assert named(key, message)
