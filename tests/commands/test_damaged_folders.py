"""Damaged runs, exported models and encoders: every command says in one line what is wrong."""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import finished
from commandline import call, run, setting
from counterpoise.analysis import leaderboard
from counterpoise.analysis.runs import load_runs
from counterpoise.commands import compare, evaluate, export, predict
from counterpoise.commands.predictor import load
from counterpoise.commands.run_config import read_config
from counterpoise.commands.saved_run import load_run
from counterpoise.commands.trusted_classes import build
from counterpoise.data.token_store import load_tokenizer
from counterpoise.errors import UserError
from counterpoise.model.encoder import EncoderSource
from data.test_cache_damage import DAMAGE
from refusals import user_error
from test_saved_files import HOSTILE, JUNK

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def trained(tmp_path_factory, texts, tiny_encoder) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    outcome = run(folder, *setting(texts, tiny_encoder), "trainer.max_epochs=1", "baseline=none", report=False)
    assert outcome.code == 0, outcome.err
    return folder


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def change(path: Path, key: str, value: Any) -> None:
    """Set a value of a JSON or YAML file; `...` removes it."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    *parents, last = key.split("/")
    part = content
    for name in parents:
        part = part[name]
    part.pop(last) if value is ... else part.update({last: value})
    path.write_text(json.dumps(content), encoding="utf-8")


# Runs


@pytest.mark.parametrize("kind", [*JUNK, *HOSTILE])
def test_every_command_refuses_a_config_that_is_none(kind, copy, texts, tmp_path, monkeypatch, capsys):
    (copy / "config.yaml").write_bytes((JUNK | HOSTILE)[kind])
    for main, arguments in (
        (predict.main, [copy, texts["test"], "--output", tmp_path / "a.csv"]),
        (evaluate.main, [copy, texts["test"]]),
        (export.main, [copy, "--output", tmp_path / "exported"]),
        (compare.main, [copy, "--output", tmp_path / "comparison"]),
    ):
        assert call(main, monkeypatch, *arguments) == 2
        error = capsys.readouterr().err
        assert "config.yaml" in error
        assert error.count("\n") == 1


@pytest.mark.parametrize("part", ["encoder", "head", "decision", "buckets"])
@pytest.mark.parametrize("value", [..., None, 3, [1], {}, {"a": 1}])
def test_a_part_of_the_config_that_is_none_is_refused(part, value, copy):
    change(copy / "config.yaml", part, value)
    user_error(lambda: load_run(copy))


@pytest.mark.parametrize("key", ["encoder/pooling", "encoder/max_length", "head/_target_"])
@pytest.mark.parametrize("value", ["x", -1, [1], {"a": 1}])
def test_a_value_of_the_config_that_does_not_fit_is_refused_before_texts_are_predicted(key, value, copy, texts):
    change(copy / "config.yaml", key, value)
    user_error(lambda: load(copy)(["alpha1"]))


@pytest.mark.parametrize("value", ["x", None, [1], {"a": 1}], ids=repr)
def test_a_number_of_the_config_that_is_none_is_refused(value, copy):
    original = (copy / "config.yaml").read_text(encoding="utf-8")
    number = yaml.safe_load(original)
    tried = 0
    for part in ("buckets", "data", "decision", "encoder"):
        for name, old in number[part].items():
            if isinstance(old, int | float) and not (value is None and name.endswith("dropout")):
                change(copy / "config.yaml", f"{part}/{name}", value)
                message = user_error(lambda part=part: build(read_config(copy)[part]))
                assert f"{name}={value!r}" in message
                (copy / "config.yaml").write_text(original, encoding="utf-8")
                tried += 1
    assert tried > 10


@pytest.mark.parametrize("key", ["seed", "buckets/head_min", "buckets/tail_max"])
@pytest.mark.parametrize("value", ["x", None, [1], {"a": 1}], ids=repr)
def test_comparisons_refuse_a_number_of_the_config_that_is_none(key, value, tmp_path):
    folder = finished.run(tmp_path / "run", config={"seed": 1, "buckets": {"head_min": 101, "tail_max": 20}})
    load_runs([folder])
    change(folder / "config.yaml", key, value)
    assert str(folder) in user_error(lambda: load_runs([folder]))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(150))
def test_any_damage_to_a_run_is_refused_or_changes_no_prediction(seed, trained, copy):
    chance, texts = random.Random(seed), ["alpha1 word2", "beta3 beta4 word5", "gamma0", "word1"]
    path = chance.choice(sorted(path for path in copy.rglob("*") if path.is_file() and path.stat().st_size))
    damage = chance.choice(list(DAMAGE))
    DAMAGE[damage](path, chance)
    with suppress(UserError):
        load_runs([copy])
    message, same = "", True
    try:
        same = bool((load(copy)(texts) == load(trained)(texts)).all())
    except UserError as error:
        message = str(error)
    assert "\n" not in message
    # A changed number of config.yaml is another setting.
    assert same or path.name == "config.yaml", (path, damage)


class Foreign:
    def __reduce__(self) -> tuple:
        return os._exit, (3,)


CHECKPOINTS: dict[str, Callable[[dict], Any]] = {
    "a list": lambda content: [1],
    "a tensor": lambda content: torch.zeros(3),
    "other names": lambda content: {"x": 1},
    "no labels": lambda content: content | {"labels": None},
    "numbers as labels": lambda content: content | {"labels": [1, 2, 3, 4]},
    "fewer labels": lambda content: content | {"labels": content["labels"][:2]},
    "weights in a list": lambda content: content | {"state_dict": [1]},
    "texts as weights": lambda content: content | {"state_dict": dict.fromkeys(content["state_dict"], "x")},
    "other shapes": lambda content: content | {"state_dict": {k: v[:1] for k, v in content["state_dict"].items()}},
    "half": lambda content: content | {"state_dict": dict(list(content["state_dict"].items())[::2])},
    "an object": lambda content: content | {"x": Foreign()},
}


@pytest.mark.parametrize("kind", [*CHECKPOINTS, *JUNK])
def test_a_checkpoint_that_is_none_is_refused(kind, copy):
    path = copy / "checkpoints" / "best.ckpt"
    if kind in JUNK:
        path.write_bytes(JUNK[kind])
    else:
        torch.save(CHECKPOINTS[kind](torch.load(path, weights_only=True)), path)
    user_error(lambda: load_run(copy))


@pytest.mark.parametrize("seed", range(5))
def test_a_cut_checkpoint_is_refused(seed, copy):
    path = copy / "checkpoints" / "best.ckpt"
    path.write_bytes(path.read_bytes()[: random.Random(seed).randrange(path.stat().st_size)])
    user_error(lambda: load_run(copy))


@pytest.mark.parametrize("name", ["balance.csv", "metrics.json"])
@pytest.mark.parametrize("kind", JUNK)
def test_evaluate_refuses_damaged_results(name, kind, copy, texts, monkeypatch, capsys):
    (copy / name).write_bytes(JUNK[kind])
    assert call(evaluate.main, monkeypatch, copy, texts["test"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["metrics.json", "per_class.csv", "predictions.parquet", "config.yaml", "status.json"])
@pytest.mark.parametrize("kind", JUNK)
def test_comparisons_refuse_damaged_results_and_leaderboards_list_them(name, kind, tmp_path):
    sweep = finished.sweep(tmp_path / "sweep")
    (sweep / "1" / name).write_bytes(JUNK[kind])
    assert len(leaderboard.write(sweep, final=True)) == 5
    if name in ("metrics.json", "status.json"):
        _, warnings = load_runs([sweep])
        assert f"unreadable {name}" in warnings[0]
        user_error(lambda: load_runs([sweep / "1"]))
    else:
        assert str(sweep / "1") in user_error(lambda: load_runs([sweep]))


@pytest.mark.parametrize(
    ("name", "key"),
    [
        *(("metrics.json", key) for key in ("test", "epochs", "steps", "baseline", "data_warnings")),
        *(("status.json", key) for key in ("overrides", "seconds")),
    ],
)
@pytest.mark.parametrize("value", [..., None, "x", [], [[1]], {}, 10**400])
def test_values_of_results_that_do_not_fit_are_refused_or_listed(name, key, value, tmp_path):
    folder = finished.run(tmp_path / "sweep" / "0", "strategy=plain")
    finished.run(tmp_path / "sweep" / "1", "strategy=combined")
    content = json.loads((folder / name).read_text())
    content.pop(key, None) if value is ... else content.update({key: value})
    (folder / name).write_text(json.dumps(content))
    assert len(leaderboard.write(tmp_path / "sweep", final=True)) == 2
    with suppress(UserError):
        load_runs([tmp_path / "sweep"])


# Exported models


@pytest.fixture(scope="module")
def exported(tiny_encoder, tmp_path_factory) -> Path:
    """A model whose logits are means of a table's rows, in the files that `export` writes."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    folder = tmp_path_factory.mktemp("exported")
    table = helper.make_tensor("table", TensorProto.FLOAT, [76, 4], [0.5] * 304)
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("ReduceMean", ["rows", "axes"], ["logits"], keepdims=0),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "T"]) for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 4])
    graph = helper.make_graph(nodes, "model", inputs, [output], [table, axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    shutil.copy(tiny_encoder / "tokenizer.json", folder)
    digest = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    content = {"labels": list("abcd"), "decision": None, "tokenizer_sha256": digest, "pad_token_id": 0}
    (folder / "export.json").write_text(json.dumps(content))
    assert load(folder)(["alpha1"]).tolist() == [[0.5] * 4]
    return folder


@pytest.mark.parametrize("name", ["export.json", "model.onnx", "tokenizer.json"])
@pytest.mark.parametrize("kind", [*JUNK, "object"])
def test_a_damaged_file_of_an_exported_model_is_refused(name, kind, exported, tmp_path):
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    data = (JUNK | {"object": b"{}"})[kind]
    (folder / name).write_bytes(data)
    if name == "tokenizer.json":
        change(folder / "export.json", "tokenizer_sha256", hashlib.sha256(data).hexdigest())
    user_error(lambda: load(folder))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, value) for key in ("labels", "tokenizer_sha256", "pad_token_id") for value in (..., None, 3000, [[1]])),
        ("labels", ["a", "b"]),
        ("decision", 3),
        ("decision", {"a": 1}),
        ("pad_token_id", 10**12),
        ("pad_token_id", "x"),
    ],
)
def test_values_of_an_exported_model_that_do_not_fit_are_refused(key, value, exported, tmp_path):
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    change(folder / "export.json", key, value)
    user_error(lambda: load(folder))


def test_an_exported_tokenizer_with_more_tokens_than_the_model_is_refused(exported, tmp_path):
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    change(folder / "tokenizer.json", "model/vocab/alpha1", 5000)
    digest = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    change(folder / "export.json", "tokenizer_sha256", digest)
    user_error(lambda: load(folder))


# Encoders


def use(folder: Path) -> None:
    load_tokenizer(str(folder))
    EncoderSource(str(folder), 32).load()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", [*JUNK, "object"])
def test_a_damaged_file_of_an_encoder_is_refused(name, kind, tiny_encoder, tmp_path):
    folder = Path(shutil.copytree(tiny_encoder, tmp_path / "copy"))
    (folder / name).write_bytes((JUNK | {"object": b"{}"})[kind])
    user_error(lambda: use(folder))


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "num_hidden_layers", "pad_token_id"])
@pytest.mark.parametrize("value", [10**10, 3 * 10**8, 10**6, "x"])
def test_an_encoder_that_describes_more_than_it_holds_is_refused(key, value, tiny_encoder, tmp_path):
    folder = Path(shutil.copytree(tiny_encoder, tmp_path / "copy"))
    change(folder / "config.json", key, value)
    user_error(lambda: use(folder))


@pytest.mark.parametrize("value", [10**10, 4 * 10**9, 5000])
def test_a_tokenizer_with_more_ids_than_its_encoder_is_refused(value, tiny_encoder, tmp_path):
    folder = Path(shutil.copytree(tiny_encoder, tmp_path / "copy"))
    change(folder / "tokenizer.json", "model/vocab/word0", value)
    user_error(lambda: use(folder))
