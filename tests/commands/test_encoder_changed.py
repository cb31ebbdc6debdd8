"""predict, evaluate and export refuse a run whose encoder has changed since training."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from commandline import call, run, setting
from counterpoise.commands import evaluate, export, predict
from counterpoise.commands.predictor import load

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", params=["finetune", "probe"])
def trained(request, tmp_path_factory, texts: dict[str, Path], tiny_encoder: Path) -> tuple[str, Path, Path]:
    """How the encoder was used, the encoder's folder, and a run that was trained with it."""
    folder = tmp_path_factory.mktemp("changed")
    encoder = Path(shutil.copytree(tiny_encoder, folder / "encoder"))
    outcome = run(folder / "run", *setting(texts, encoder), f"train={request.param}", "strategy=plain", report=False)
    assert outcome.code == 0, outcome.err
    return request.param, encoder, folder / "run"


@pytest.fixture
def restored(trained, tiny_encoder):
    """The same, and the encoder is as at training again when the test ends."""
    yield trained
    shutil.copytree(tiny_encoder, trained[1], dirs_exist_ok=True)


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def edit_config(encoder: Path, **changes: object) -> None:
    config = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps(config | changes))


def change_weights(encoder: Path) -> None:
    state = load_file(encoder / "model.safetensors")
    state["encoder.layer.0.output.dense.bias"] += 0.01
    save_file(state, encoder / "model.safetensors", metadata={"format": "pt"})


TOKENIZER = {
    "other words": lambda encoder: replace(encoder / "tokenizer.json", '"word3"', '"other3"'),
    "two words exchanged": lambda encoder: [
        replace(encoder / "tokenizer.json", old, new)
        for old, new in (('"word3"', '"x"'), ('"word4"', '"word3"'), ('"x"', '"word4"'))
    ],
    "case kept": lambda encoder: replace(encoder / "tokenizer.json", '"Lowercase"', '"NFC"'),
    "other splitting": lambda encoder: replace(encoder / "tokenizer.json", '"Whitespace"', '"WhitespaceSplit"'),
    "other special tokens": lambda encoder: replace(encoder / "tokenizer.json", '"id": "[CLS]"', '"id": "[SEP]"'),
}
CONFIG = {
    "other heads": lambda encoder: edit_config(encoder, num_attention_heads=4),
    "other activation": lambda encoder: edit_config(encoder, hidden_act="relu"),
    "other epsilon": lambda encoder: edit_config(encoder, layer_norm_eps=1e-3),
}
COMMANDS = {"predict": predict.main, "evaluate": evaluate.main, "export": export.main}


def run_command(name: str, folder: Path, texts: dict[str, Path], output: Path, monkeypatch) -> int:
    file = [] if name == "export" else [texts["test"]]
    return call(COMMANDS[name], monkeypatch, folder, *file, "--output", output)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("change", [*TOKENIZER, *CONFIG])
def test_a_changed_tokenizer_or_configuration_is_refused(
    command, change, restored, texts, tmp_path, monkeypatch, capsys
):
    _, encoder, folder = restored
    (TOKENIZER | CONFIG)[change](encoder)
    assert run_command(command, folder, texts, tmp_path / "out.parquet", monkeypatch) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert ("tokenizer" if change in TOKENIZER else "config.json") in line
    assert str(encoder) in line
    assert "encoder.json" in line
    assert not (tmp_path / "out.parquet").exists()


def test_changed_weights_matter_to_a_probe_only(restored, texts, tmp_path, monkeypatch, capsys):
    how, encoder, folder = restored
    before = load(folder)(["alpha1 word2"])
    change_weights(encoder)
    code = run_command("predict", folder, texts, tmp_path / "out.parquet", monkeypatch)
    if how == "probe":
        assert code == 2
        assert "the weights of the encoder" in capsys.readouterr().err
    else:
        assert code == 0
        assert (load(folder)(["alpha1 word2"]) == before).all()


@pytest.mark.parametrize("change", ["other words", "case kept", "other heads"])
def test_a_run_is_not_resumed_with_another_tokenizer_or_configuration(change, restored, texts, tmp_path):
    how, encoder, finished = restored
    if how == "probe":
        pytest.skip("a probe has no checkpoint to resume from")
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    record = (folder / "encoder.json").read_text()
    (TOKENIZER | CONFIG)[change](encoder)
    resume = [
        *setting(texts, encoder),
        "strategy=plain",
        "trainer.max_epochs=2",
        f"ckpt={folder}/checkpoints/last.ckpt",
    ]
    for target in (folder, tmp_path / "other"):
        done = run(target, *resume, report=False)
        assert done.code == 2
        assert "is not the one of the training" in done.error
    assert (folder / "encoder.json").read_text() == record


@pytest.mark.parametrize("changes", [{"transformers_version": "0.0.1"}, {"architectures": ["BertForMaskedLM"]}])
def test_bookkeeping_in_the_configuration_may_change(changes, restored):
    _, encoder, folder = restored
    edit_config(encoder, **changes)
    assert load(folder)(["alpha1"]).shape == (1, 4)


@pytest.mark.parametrize("content", ["", "{}", "[]", "{"])
def test_a_damaged_record_is_refused_and_a_missing_one_is_named(
    content, trained, texts, tmp_path, monkeypatch, capsys, caplog
):
    folder = Path(shutil.copytree(trained[2], tmp_path / "run"))
    (folder / "encoder.json").write_text(content)
    assert run_command("predict", folder, texts, tmp_path / "out.parquet", monkeypatch) == 2
    assert "encoder.json is damaged" in capsys.readouterr().err
    (folder / "encoder.json").unlink()
    assert run_command("predict", folder, texts, tmp_path / "out.parquet", monkeypatch) == 0
    assert "has no encoder.json" in caplog.text


def test_a_checkpoint_without_some_encoder_weights_is_refused(trained, tmp_path, texts, monkeypatch, capsys):
    how, _, finished = trained
    if how == "probe":
        pytest.skip("the checkpoint of a probe has no encoder weights")
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    path = folder / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["state_dict"]["encoder.backbone.encoder.layer.0.output.dense.bias"]
    torch.save(checkpoint, path)
    assert run_command("predict", folder, texts, tmp_path / "out.parquet", monkeypatch) == 2
    assert "does not fit the model" in capsys.readouterr().err
