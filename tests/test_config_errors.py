"""Overrides that Hydra cannot parse lead to one line with the quoted form that works."""

import shlex

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from hypothesis import given
from hypothesis import strategies as st

from commandline import ROOT, run, setting
from counterpoise.config_errors import config_error_line, quoted_override

SPECIAL = "=(),[]{}:'\"\\ #&!~@;<>^`$%|*?é产🙂、"

names = st.text(st.sampled_from(SPECIAL + "ab1._/-"), min_size=1, max_size=12)


def parsed(line: str) -> object:
    """The value of the override that a shell passes on when `line` is typed."""
    (override,) = shlex.split(line)
    return OverridesParser.create().parse_override(override).value()


@given(names)
def test_the_quoted_form_gives_the_value_through_shell_and_hydra(name):
    quoted = quoted_override(f"data.train={name}")
    if name.startswith("{") and name.endswith("}"):
        assert quoted is None
    elif name.startswith("[") and name.endswith("]"):
        assert quoted is None or parsed(quoted) == [item.strip() for item in name[1:-1].split(",")]
    else:
        assert quoted is not None
        assert parsed(quoted) == name


@pytest.mark.parametrize("character", SPECIAL)
@pytest.mark.parametrize("pattern", ["a{}1.csv", "{}a.csv", "a.csv{}", "[a,{}]"])
def test_an_override_that_cannot_be_composed_is_one_line_with_the_form_that_can(character, pattern):
    override = f"data.train={pattern.format(character)}"
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        try:
            compose("train", ["data=files", override])
        except Exception as error:
            line = config_error_line(error)
            assert line is not None
            assert "\n" not in line
            assert (quoted_override(override) or "YAML") in line


@pytest.mark.parametrize("override", ["data.train=a\nb(", "data.train=\x00", "data.tràin=x", "(", "data.train={é:1}"])
def test_an_override_without_a_quoted_form_names_the_configuration_file(override):
    with (
        initialize_config_dir(str(ROOT / "conf"), version_base="1.3"),
        pytest.raises(OverrideParseException) as caught,
    ):
        compose("train", ["data=files", override])
    line = config_error_line(caught.value)
    assert line is not None
    assert line.isprintable()
    assert "YAML" in line


@pytest.mark.parametrize(
    ("override", "shown"),
    [("data.train=a(1).csv", """'data.train="a(1).csv"'"""), ("data.train=a,b.csv", """'data.train="a,b.csv"'""")],
)
def test_a_run_exits_with_2_and_prints_the_quoted_form(tmp_path, override, shown):
    outcome = run(tmp_path / "run", "data=files", override)
    assert outcome.code == 2
    assert shown in outcome.error


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("strategy.alpha", ["'strategy.sampler.alpha'"]),
        ("alpha", ["'strategy.sampler.alpha'"]),
        ("strategy.beta", ["'strategy.weights.beta'"]),
        ("lr", ["'optim.encoder_lr'", "'optim.head_lr'"]),
        ("max_length", ["'encoder.max_length'"]),
        ("max_lenght", ["'encoder.max_length'"]),
        ("encoder.max_lenght", ["'encoder.max_length'"]),
        ("batch_size", ["'loader.batch_size'"]),
        ("max_epochs", ["'trainer.max_epochs'"]),
        ("epochs", ["'trainer.max_epochs'"]),
        ("learning_rate", ["'optim.encoder_lr'"]),
        ("num_train_epochs", ["'trainer.max_epochs'"]),
        ("model_name", ["'encoder.name'"]),
        ("max_seq_length", ["'encoder.max_length'"]),
        ("data.lable", ["'data.label'"]),
        ("strategie", ["'strategy'"]),
        ("strategy.loss.gamma", ["strategy/loss=focal"]),
    ],
)
def test_an_unknown_key_leads_to_the_whole_key_that_exists(key, expected, monkeypatch):
    monkeypatch.setattr("sys.argv", [str(ROOT / "train.py")])
    with (
        initialize_config_dir(str(ROOT / "conf"), version_base="1.3"),
        pytest.raises(Exception, match="Could not override") as caught,
    ):
        compose("train", ["data=files", "strategy=plain", f"{key}=1"])
    line = config_error_line(caught.value)
    assert line is not None
    assert all(name in line for name in expected), line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--max_epochs", "3"], "trainer.max_epochs=3"),
        (["--max_epochs=3"], "trainer.max_epochs=3"),
        (["--max-epochs", "3"], "trainer.max_epochs=3"),
        (["seed=1", "--learning_rate", "2e-5"], "optim.encoder_lr=2e-5"),
        (["--trainer.max_epochs=3"], "write trainer.max_epochs=3"),
        (["--seed", "seed=1"], "write seed=..."),
        (["--strategy=weighted"], "write strategy=weighted"),
        (["--head", "mlp"], "write head=mlp"),
        (["--batchsize", "8"], "loader.batch_size=8"),
        (["--nonsense"], "KEY=VALUE"),
        (["-x"], "KEY=VALUE"),
        (["--confg", "other"], "--cfg or --config-"),
        (["--confgi-dir=other"], "--config-dir"),
        (["--multi-run"], "--multirun"),
        (["--resume", "a.ckpt"], "ckpt=a.ckpt"),
        (["seed=1", "--config-dir", "other", "seed=2"], "in front of all settings"),
        (["--cfg", "jobs"], "'jobs'"),
    ],
)
def test_an_option_leads_to_the_override_that_is_meant(arguments, expected, tmp_path):
    done = run(tmp_path / "run", *arguments)
    assert done.code == 2
    assert expected in done.error
    assert "usage" not in done.out + done.err


@pytest.mark.parametrize("arguments", [["--cfg", "job"], ["-c", "job", "seed=1"], ["--help"], ["--version"]])
def test_options_of_hydra_are_passed_on(arguments, tmp_path):
    done = run(tmp_path / "run", *arguments)
    assert done.code == 0, done.err
    assert "settings are written" not in done.err


def test_help_explains_settings_and_lists_options_of_groups(tmp_path):
    done = run(tmp_path / "run", "--help")
    assert "optim.encoder_lr=0.0001       learning rate of the encoder" in done.out
    assert "strategy/loss: " in done.out
    assert len(done.out.splitlines()) < 85
    assert max(map(len, done.out.partition("== Groups")[0].splitlines())) <= 120


@pytest.mark.parametrize("name", ["own", "my own [1]"])
def test_a_group_of_a_folder_on_the_search_path_is_found(name, texts, tiny_encoder, tmp_path):
    folder = tmp_path / name / "sweep"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# @package _global_\ndropout: 0.05\n")
    path = f'hydra.searchpath=["file://{folder.parent}"]'
    settings = [*setting(texts, tiny_encoder), path, "sweep=mine"]
    refused = run(tmp_path / "refused", *settings, "dropout=high", report=False)
    assert "dropout=high: use a number, such as 0.05 (the default)" in refused.error
