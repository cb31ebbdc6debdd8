"""Every file of conf/ composes, names existing classes with existing arguments, and explains its settings."""

import re
from copy import deepcopy
from dataclasses import is_dataclass
from functools import cache

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class, get_object, instantiate
from omegaconf import DictConfig, OmegaConf, flag_override
from scipy.sparse import csr_matrix
from torch import nn

from commandline import ROOT, TASK_OF_STRATEGY
from counterpoise.balance import ClassIndex, Correction, Strategy
from counterpoise.training.config_types import check_types
from counterpoise.training.monitors import set_modes

CONF = ROOT / "conf"
GROUPS = sorted(
    {path.parent.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml")}
    - {".", "hydra/hydra_logging", "hydra/job_logging", "hydra/help"}
)
OPTIONS = [
    (group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml")) if path.stem != "base"
]
COMMENTED = [
    "",
    "data",
    "encoder",
    "head",
    "hydra/launcher",
    "optim",
    "trainer",
    *(g for g in GROUPS if g.startswith("strategy")),
]
"""Groups whose every setting has a comment that says what a change does."""
NEEDED = {
    ("strategy", "manual"): ["strategy.weights.by_label={a: 1, b: 2}"],
    ("strategy/weights", "manual"): ["strategy.weights.by_label={a: 1, b: 2}"],
    ("encoder", "local"): ["encoder.name=somewhere"],
    ("data", "hub"): ["data.path=somewhere"],
}


@cache
def _composed(*overrides: str) -> DictConfig:
    given = [*overrides, "hydra.runtime.output_dir=run", "hydra.job.num=0"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", given, return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with flag_override(config, ["struct", "readonly"], False):
        del config.hydra
    OmegaConf.resolve(config)
    return config


def composed(*overrides: str) -> DictConfig:
    """The resolved configuration of a run, with the folder that Hydra would make."""
    return deepcopy(_composed(*overrides))


def targets(node: object) -> list[str]:
    """Every `_target_` below a node."""
    if isinstance(node, DictConfig):
        own = [node["_target_"]] if "_target_" in node else []
        return own + [target for value in node.values() for target in targets(value)]
    return []


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_every_option_composes_and_its_targets_exist(group, name):
    config = composed(f"{group}={name}", *NEEDED.get((group, name), []))
    assert not OmegaConf.missing_keys(config)
    for target in targets(config):
        assert callable(get_object(target))


def test_the_help_states_keys_that_exist_and_their_defaults():
    text = (CONF / "hydra/help/counterpoise.yaml").read_text()
    stated = re.findall(r"^    ([a-z_.]+)=(\S+)  ", text.partition("Frequent settings")[2], re.MULTILINE)
    assert len(stated) >= 15
    config = composed()
    for key, default in stated:
        value = OmegaConf.select(config, key, throw_on_missing=True, default="no such key")
        assert yaml.safe_load(default) == value, key


def keys_with_auto() -> list[tuple[str, str, str]]:
    """Return group, option and key of each setting whose comment offers the value auto."""
    return [
        (group, name, line.partition(":")[0])
        for group, name in OPTIONS
        for line in (CONF / group / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        if re.match(r"\w+: .*#.*\bauto\b", line)
    ]


@pytest.mark.parametrize(("group", "name", "key"), keys_with_auto())
def test_a_setting_accepts_auto_where_its_comment_says_so(group, name, key):
    setting = f"{group.replace('/', '.')}.{key}"
    for value in ["auto", 0.5] if group.startswith("strategy") else ["auto"]:
        config = composed(f"{group}={name}", f"{setting}={value}", *NEEDED.get((group, name), []))
        assert OmegaConf.select(config, setting) == value
        with initialize_config_dir(str(CONF), version_base="1.3"):
            check_types(OmegaConf.to_container(config))


@pytest.mark.parametrize("setting", ["trainer.timeout", "callbacks.last.minutes"])
def test_minutes_may_be_fractions(setting):
    config = composed(f"{setting}=0.5")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        check_types(OmegaConf.to_container(config))


@pytest.mark.parametrize("name", [name for group, name in OPTIONS if group == "strategy"])
def test_every_strategy_gives_a_correction_and_a_loss(name):
    config = composed(f"strategy={name}", *NEEDED.get(("strategy", name), []))
    strategy = instantiate(config.strategy)
    assert isinstance(strategy, Strategy)
    single_label = ClassIndex.from_targets(np.repeat([0, 1], [90, 10]), 2)
    multi_label = ClassIndex.from_targets(csr_matrix(np.arange(200).reshape(100, 2) % [2, 7] == 0), 2)
    for index in (single_label, multi_label):
        correction = strategy.correction(["a", "b"], index)
        assert isinstance(correction, Correction)
        if TASK_OF_STRATEGY.get(name, correction.task) == correction.task:
            assert isinstance(strategy.loss(correction), nn.Module)


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group, name in OPTIONS if group in ("data", "encoder", "optim")]
)
def test_data_encoders_and_optimizers_are_built_without_a_download(group, name):
    config = composed(f"{group}={name}", *NEEDED.get((group, name), []))
    made = instantiate(config[group])
    assert is_dataclass(made)
    assert type(made) is get_class(config[group]._target_)


def test_callbacks_and_default_loggers_are_built():
    config = composed()
    set_modes(config.callbacks)
    made = [instantiate(each) for group in (config.callbacks, config.logger) for each in group.values()]
    assert len(made) == len(config.callbacks) + len(config.logger)


def test_the_default_trainer_is_built():
    config = composed("trainer=cpu")
    trainer = instantiate(config.trainer, logger=False)
    assert trainer.max_epochs == config.trainer.max_epochs


def test_every_setting_is_an_argument_of_its_target():
    # instantiate would refuse an unknown one at the first run only.
    config = composed("data=files", "encoder=local", "encoder.name=somewhere")
    for group in (config.data, config.encoder, config.optim):
        assert set(group) - {"_target_"} <= set(get_class(group._target_).__dataclass_fields__)


@pytest.mark.parametrize("group", COMMENTED)
def test_every_setting_has_a_comment_in_a_file_of_its_group(group):
    lines = [line for path in (CONF / group).glob("*.yaml") for line in path.read_text(encoding="utf-8").splitlines()]
    # Keys of a section, such as `loader:`, are explained by the keys below it.
    settings = [(found[1], "#" in found[2]) for line in lines if (found := re.match(r"\s*(\w+):(\s+\S.*)", line))]
    commented = {key for key, has_comment in settings if has_comment}
    assert {key for key, _ in settings} - commented <= {"_target_", "_partial_", "defaults"}
