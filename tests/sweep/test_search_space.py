"""The search space of `sweep=optuna`: what can be written, and what is refused with one line."""

import pytest

pytest.importorskip("optuna")

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from counterpoise.errors import UserError
from counterpoise.sweep.search_space import read_space

DEFAULTS = {
    "dropout": 0.1,
    "loader.batch_size": 16,
    "probe": False,
    "encoder.pooling": "mean",
    "strategy/loss": "focal",
}


def read(*arguments, **params):
    return read_space(params, arguments, DEFAULTS.get)


@pytest.mark.parametrize(
    ("written", "distribution"),
    [
        ("dropout=interval(0,0.5)", FloatDistribution(0, 0.5)),
        ("dropout=tag(log,interval(1e-3,0.5))", FloatDistribution(1e-3, 0.5, log=True)),
        ("loader.batch_size=int(interval(8,64))", IntDistribution(8, 64)),
        ("loader.batch_size=8,16", IntDistribution(8, 16, step=8)),
        ("loader.batch_size=choice(24,8,16)", IntDistribution(8, 24, step=8)),
        ("loader.batch_size=8,16,32", CategoricalDistribution(["8", "16", "32"])),
        ("loader.batch_size=8,null", CategoricalDistribution(["8", "null"])),
        ("loader.batch_size=range(8,25,8)", IntDistribution(8, 24, step=8)),
        ("loader.batch_size=range(8,9)", CategoricalDistribution(["8"])),
        ("dropout=range(0,0.35,0.1)", FloatDistribution(0, 0.3, step=0.1)),
        ("dropout=choice(0,0.1,0.2,0.3)", FloatDistribution(0, 0.3, step=0.1)),
        ("dropout=choice(0.001,0.01,0.1)", CategoricalDistribution(["0.001", "0.01", "0.1"])),
        ("strategy/loss=choice(focal,ldam)", CategoricalDistribution(["focal", "ldam"])),
        ("probe=true,false", CategoricalDistribution(["true", "false"])),
        ("+new=interval(0,1)", FloatDistribution(0, 1)),
    ],
)
def test_ranges_and_choices_become_distributions(written, distribution):
    assert read(written).distributions == {written.partition("=")[0]: distribution}


def test_the_command_line_replaces_and_adds_to_the_configured_space():
    space = read("dropout=0.2", "loader.batch_size=8,16", dropout="interval(0,1)", probe="true,false", other=None)
    assert set(space.distributions) == {"loader.batch_size", "probe"}
    assert set(space.overrides({"probe": "true"})) == {"other=null", "dropout=0.2", "probe=true"}


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("dropout=interval(0.5,0.5)", "interval is empty"),
        ("dropout=interval(1,0)", "interval is empty"),
        ("dropout=tag(log,interval(0,1))", "bounds above 0"),
        ("dropout=tag(loguniform,interval(0,1))", "only tag is log"),
        ("dropout=choice(a,b)", "must be a number"),
        ("loader.batch_size=interval(8,64)", r"int\(interval"),
        ("loader.batch_size=8,big", "whole number"),
        ("loader.batch_size=range(8,8)", "range is empty"),
        ("probe=interval(0,1)", "true or false"),
        ("encoder.pooling=interval(0,1)", "must be a name"),
        ("strategy/loss=glob(*)", "choice"),
        ("seed=0,1,2", "luck"),
        ("data=files,hub", "not comparable"),
        ("loader.fold=0,1", "not comparable"),
        ("experiment=r8,r52", "not comparable"),
        ("ckpt=a,b", "cannot resume"),
        ("monitor=val/accuracy,val/macro_f1", "measure the same"),
        ("dropout=0.1", "nothing to search"),
    ],
)
def test_other_spaces_are_refused(written, message):
    with pytest.raises(UserError, match=message):
        read(written)
