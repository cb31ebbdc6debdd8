"""A mistake in the arguments of a command is one line that names what is meant."""

import importlib
from pathlib import Path

import pandas as pd
import pytest
import yaml

import finished
from commandline import call
from counterpoise.commands import predict
from counterpoise.commands.arguments import Parser
from counterpoise.errors import UserError

COMMANDS = ["audit", "compare", "ensemble", "evaluate", "export", "fork", "predict", "serve"]
TEXTS = ["predict", "no_run", "texts.csv"]


def misspelt(option: str) -> str:
    """The option with another letter in its middle."""
    middle = len(option) // 2
    return f"{option[:middle]}q{option[middle:]}"


def options_of(command: str, monkeypatch) -> list[str]:
    """The options of a command, as its parser has them."""
    parsers = []
    monkeypatch.setattr(Parser, "_check_options", lambda parser, args: parsers.append(parser))
    call(importlib.import_module(f"counterpoise.commands.{command}").main, monkeypatch, "--no-such-option")
    monkeypatch.undo()
    return [name for name in parsers[0]._option_string_actions if name.startswith("--")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_misspelt_option_names_the_nearest_one(command, monkeypatch, capsys):
    main = importlib.import_module(f"counterpoise.commands.{command}").main
    for option in options_of(command, monkeypatch):
        capsys.readouterr()
        assert call(main, monkeypatch, "a", "b", f"{misspelt(option)}=c") == 2
        out, err = capsys.readouterr()
        assert err.count("\n") == 1
        assert f"Did you mean '{option}'?" in err
        assert "usage" not in out + err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        *(([command, "--nonsense"], "--nonsense: no such option") for command in COMMANDS),
        *(([command], "required") for command in COMMANDS if command != "audit"),
        ([*TEXTS, "more.csv"], "more.csv"),
        ([*TEXTS, "--text"], "--text"),
        ([*TEXTS, "--text", "a", "--text", "b"], "--text A,B"),
        ([*TEXTS, "--device=cpu", "--device", "cuda"], "--device is given 2 times: give it once"),
        ([*TEXTS, "--precision", "fp8"], "'fp8'"),
        ([*TEXTS, "-x"], "-x: no such option"),
        (["serve", "no_run", "--port", "many"], "'many'"),
    ],
)
def test_a_mistake_is_one_line(arguments, problem, monkeypatch, capsys):
    command, *others = arguments
    assert call(importlib.import_module(f"counterpoise.commands.{command}").main, monkeypatch, *others) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert problem in err
    assert "usage" not in out + err


@pytest.mark.parametrize(
    "values",
    [
        ["--keep", "-", "--number=-1"],
        ["--keep", "a", "--keep", "b"],
        ["--kee", "a"],
        ["--number", "-1.5"],
        ["--", "--x"],
    ],
)
def test_values_and_abbreviations_are_no_mistakes(values):
    parser = Parser()
    parser.add_argument("--keep", action="append")
    parser.add_argument("--number", type=float)
    parser.add_argument("files", nargs="*")
    parser.parse_args(values)
    with pytest.raises(UserError, match="no such option"):
        parser.parse_args([*(value for value in values if value != "--"), "--no-such"])


@pytest.mark.parametrize(
    ("option", "advice"), [("--keep", "repeat --keep"), ("--text", "the model reads texts of one column")]
)
def test_a_list_of_columns_says_how_they_are_named(option, advice, tmp_path, monkeypatch, capsys):
    parts = {part: {"_target_": "counterpoise.none"} for part in ("encoder", "head", "decision", "buckets")}
    config = parts | {"data": {"_target_": "counterpoise.none", "text": "text", "train": "train.csv"}}
    folder = finished.run(tmp_path / "run", config=config)
    assert yaml.safe_load((folder / "config.yaml").read_text())["data"]["text"] == "text"
    file = Path(tmp_path / "texts.csv")
    pd.DataFrame({"text": ["x"], "a": ["y"], "b": ["z"]}).to_csv(file, index=False)
    assert call(predict.main, monkeypatch, folder, file, option, "a,b") == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert line.rstrip().endswith(advice)
    assert call(predict.main, monkeypatch, folder, file, option, "a,c") == 2
    assert advice not in capsys.readouterr().err
