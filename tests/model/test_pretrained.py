"""Encoders whose checkpoint does not hold the weights that config.json describes are refused, never left random."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, T5Config, T5EncoderModel

from counterpoise.model.encoder import EncoderSource
from refusals import user_error

State = dict[str, Tensor]
WORDS = "embeddings.word_embeddings.weight"


def without(part: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if part not in key}


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + key: value for key, value in state.items()}


def narrower(state: State) -> State:
    return {key: value[:, :8] if value.ndim == 2 and value.shape[1] == 16 else value for key, value in state.items()}


REFUSED: dict[str, tuple[Callable[[State], State], list[str]]] = {
    "a layer is missing": (without("layer.1."), ["encoder.layer.1.", "16 of the 37"]),
    "one bias is missing": (without("layer.0.output.dense.bias"), ["encoder.layer.0.output.dense.bias", "1 of the 37"]),
    "the token embeddings are missing": (without("word_embeddings"), [WORDS, "1 of the 37"]),
    "all norms are missing": (without("LayerNorm"), ["LayerNorm", "10 of the 37"]),
    "a prefix of DataParallel": (prefixed("module."), ["'module.'", "37 of the 37"]),
    "a prefix of a wrapper": (prefixed("model."), ["'model.'"]),
    "a prefix of a Lightning module": (prefixed("encoder.backbone."), ["'encoder.backbone.'"]),
    "a prefix of torch.compile": (prefixed("_orig_mod."), ["'_orig_mod.'"]),
    "two prefixes": (prefixed("module.bert."), ["'module.bert.'"]),
    "only a head": (lambda state: {"cls.predictions.bias": torch.zeros(3)}, ["37 of the 37", "cls.predictions.bias"]),
    "no weights": (lambda state: {}, ["37 of the 37", "incomplete"]),
    "another width": (narrower, ["shape", ", 8]"]),
    "fewer tokens": (lambda state: state | {WORDS: state[WORDS][:20]}, ["shape", WORDS, "[20, 16]"]),
    "another family": (
        lambda state: {f"transformer.{n}.w": value for n, value in enumerate(state.values())},
        ["other"],
    ),
}
ACCEPTED: dict[str, Callable[[State], State]] = {
    "as saved": lambda state: state,
    "with the pre-training head": lambda state: state | {"cls.predictions.bias": torch.zeros(3)},
    "under the name of its family": prefixed("bert."),
    "of a classifier": lambda state: prefixed("bert.")(state) | {"classifier.weight": torch.zeros(2, 16)},
    "in half precision": lambda state: {key: value.half() for key, value in state.items()},
    "without the pooler, which mean pooling does not use": without("pooler"),
    "with a pooler of another shape, which mean pooling does not use": lambda state: (
        state | {"pooler.dense.weight": torch.zeros(3, 3)}
    ),
}


@pytest.fixture
def damaged(tiny_encoder: Path, tmp_path: Path) -> Callable[[Callable[[State], State]], Path]:
    """A function that writes the tiny encoder with changed weights to a folder."""

    def write(change: Callable[[State], State]) -> Path:
        folder = tmp_path / "damaged"
        shutil.copytree(tiny_encoder, folder, dirs_exist_ok=True)
        state = {
            key: value.contiguous() for key, value in change(load_file(tiny_encoder / "model.safetensors")).items()
        }
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return write


def refused(folder: Path, **options) -> str:
    error = user_error(EncoderSource(str(folder), max_length=16, **options).load)
    assert len(error) < 700
    return error


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_weights_that_would_be_random_are_refused_by_name_and_number(kind, packed, damaged):
    change, parts = REFUSED[kind]
    line = refused(damaged(change), packed=packed)
    assert "encoder.name=" in line
    for part in parts:
        assert part in line


@pytest.mark.parametrize("kind", ACCEPTED)
def test_complete_weights_are_loaded(kind, damaged, tiny_encoder, caplog):
    with caplog.at_level(logging.INFO):
        loaded = EncoderSource(str(damaged(ACCEPTED[kind])), max_length=16).load().backbone.state_dict()
    assert not caplog.records
    saved = load_file(tiny_encoder / "model.safetensors")
    assert loaded.keys() == {key for key in saved if "pooler" not in key}
    for key, value in loaded.items():
        torch.testing.assert_close(value, saved[key].half().float() if "half" in kind else saved[key], rtol=0, atol=0)


@given(st.data())
def test_any_missing_weight_is_named(tiny_encoder, tmp_path_factory, data):
    saved = load_file(tiny_encoder / "model.safetensors")
    lost = data.draw(st.sets(st.sampled_from(sorted(saved)), min_size=1))
    folder = tmp_path_factory.mktemp("lost")
    shutil.copytree(tiny_encoder, folder, dirs_exist_ok=True)
    save_file({key: saved[key] for key in saved.keys() - lost}, folder / "model.safetensors", metadata={"format": "pt"})
    line = refused(folder, pooling="pooler")
    assert min(lost) in line
    if any("pooler" not in key for key in lost):
        assert f"{len(lost)} of the {len(saved)} weights" in line


@pytest.mark.parametrize("part", ["pooler", "pooler.dense.weight", "pooler.dense.bias"])
def test_a_pooling_layer_that_the_checkpoint_lacks_is_refused(part, damaged):
    line = refused(damaged(without(part)), pooling="pooler")
    assert "encoder.pooling=pooler" in line
    assert "mean or cls" in line


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 64, b"{}", b"\x80\x02}q\x00."], ids=["empty", "zeros", "json", "pickle"]
)
def test_a_file_that_is_no_checkpoint_is_refused(content, damaged):
    folder = damaged(lambda state: state)
    (folder / "model.safetensors").write_bytes(content)
    assert "cannot be loaded" in refused(folder)


def test_a_missing_shard_is_refused(tiny_encoder, tmp_path):
    AutoModel.from_pretrained(tiny_encoder).save_pretrained(tmp_path, max_shard_size="8KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 1
    assert EncoderSource(str(tmp_path), max_length=16).load().size == 16
    shards[0].unlink()
    assert "cannot be loaded" in refused(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 8, "num_attention_heads": 2},
        {"num_hidden_layers": 3},
        {"intermediate_size": 64},
        {"vocab_size": 1000},
        {"max_position_embeddings": 512},
        {"hidden_size": "wide"},
        {"num_attention_heads": 3},
        {"hidden_act": "none such"},
        {"model_type": "none such"},
        {"model_type": "roberta", "max_position_embeddings": 99},
    ],
    ids=str,
)
def test_a_configuration_that_does_not_fit_the_weights_is_refused(change, damaged):
    folder = damaged(lambda state: state)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    assert str(folder) in refused(folder)


def test_layers_that_the_configuration_does_not_count_are_named(damaged, caplog):
    folder = damaged(lambda state: state)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    assert len(EncoderSource(str(folder), max_length=16).load().layers) == 1
    (record,) = caplog.records
    assert "16 weights are not used: encoder.layer.1." in record.getMessage()


def test_the_decoder_of_an_encoder_decoder_model_may_be_missing(tmp_path):
    config = T5Config(vocab_size=60, d_model=16, num_layers=2, num_heads=2, d_ff=32, d_kv=8)
    T5EncoderModel(config).save_pretrained(tmp_path)
    assert EncoderSource(str(tmp_path), max_length=12).load().size == 16
    state = load_file(tmp_path / "model.safetensors")
    lost = without("encoder.block.1.")(state)
    save_file(lost, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert "encoder.block.1." in refused(tmp_path)
