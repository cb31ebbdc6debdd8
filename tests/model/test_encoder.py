import json
import logging
import shutil
from functools import partialmethod

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    DistilBertConfig,
    ModernBertConfig,
    PreTrainedConfig,
    RobertaConfig,
)

from counterpoise.data.token_store import load_tokenizer
from counterpoise.model.encoder import Encoder, EncoderSource
from refusals import user_error

PAD = 1
FAMILIES: dict[str, PreTrainedConfig] = {
    "bert": BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        pad_token_id=PAD,
    ),
    "roberta": RobertaConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=34,
        pad_token_id=PAD,
    ),
    "distilbert": DistilBertConfig(
        vocab_size=50, dim=16, n_layers=3, n_heads=2, hidden_dim=32, max_position_embeddings=32, pad_token_id=PAD
    ),
    "modernbert": ModernBertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        local_attention=8,
        pad_token_id=PAD,
        bos_token_id=2,
        eos_token_id=3,
        cls_token_id=2,
        sep_token_id=3,
    ),
}

every_family = pytest.mark.parametrize("family", FAMILIES)


def of(family: str, pooling: str = "mean", freeze: str | int = "none") -> Encoder:
    torch.manual_seed(0)
    return Encoder(AutoModel.from_config(FAMILIES[family]), pooling, freeze)


def trained(encoder: Encoder) -> set[str]:
    """Return which parts of the backbone have trained parameters: embeddings, layer numbers, or the rest."""
    parts = {id(p): "embeddings" for p in encoder.embeddings.parameters()}
    for number, layer in enumerate(encoder.layers):
        parts |= {id(p): f"layer {number}" for p in layer.parameters()}
    return {parts.get(id(p), "rest") for p in encoder.parameters() if p.requires_grad}


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Three texts of 9, 4 and 1 tokens."""
    ids = torch.randint(4, 50, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(9) < torch.tensor([9, 4, 1])[:, None]).long()
    return torch.where(mask.bool(), ids, PAD), mask


def test_mean_pooling_ignores_padding(batch):
    ids, mask = batch
    encoder = of("bert").eval()
    hidden = encoder.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
    expected = torch.stack([hidden[0].mean(0), hidden[1, :4].mean(0), hidden[2, 0]])
    torch.testing.assert_close(encoder(ids, mask), expected, rtol=1e-6, atol=1e-6)


def test_cls_pooling_is_the_first_token(batch):
    ids, mask = batch
    encoder = of("bert", "cls").eval()
    hidden = encoder.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(encoder(ids, mask), hidden[:, 0])


def test_the_pooler_is_the_pretrained_layer_on_the_first_token(batch):
    ids, mask = batch
    encoder = of("bert", "pooler").eval()
    first = encoder.backbone(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
    torch.testing.assert_close(encoder(ids, mask), torch.tanh(encoder.backbone.pooler.dense(first)))


@pytest.mark.parametrize(
    ("family", "pooling"),
    [
        *((family, pooling) for family in FAMILIES for pooling in ("cls", "mean")),
        ("bert", "pooler"),
        ("roberta", "pooler"),
    ],
)
def test_padding_does_not_change_the_vectors(family, pooling, batch):
    ids, mask = batch
    encoder = of(family, pooling).eval()
    together = encoder(ids, mask)
    wider = encoder(nn.functional.pad(ids, (0, 7), value=PAD), nn.functional.pad(mask, (0, 7)))
    torch.testing.assert_close(wider, together, rtol=0, atol=1e-6)
    for row, length in enumerate(mask.sum(1).tolist()):
        alone = encoder(ids[row : row + 1, :length], mask[row : row + 1, :length])
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-6)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@every_family
def test_every_family_of_encoders_has_layers_embeddings_and_a_size(family, pooling, batch):
    encoder = of(family, pooling)
    assert len(encoder.layers) == 3
    assert any(isinstance(module, nn.Embedding) for module in encoder.embeddings.modules())
    assert encoder.size == 16
    assert encoder(*batch).shape == (3, 16)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@every_family
def test_every_parameter_gets_a_gradient(family, pooling, batch):
    encoder = of(family, pooling)
    encoder(*batch).square().sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("family", ["distilbert", "modernbert"])
def test_an_encoder_without_a_pooler_cannot_use_it(family):
    assert "use mean or cls" in user_error(of, family, "pooler")


def test_an_unknown_pooling_is_refused():
    assert "pooler, cls, mean" in user_error(of, "bert", "max")


EVERYTHING = {"embeddings", "layer 0", "layer 1", "layer 2"}


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [
        ("none", EVERYTHING),
        ("embeddings", EVERYTHING - {"embeddings"}),
        ("encoder", set()),
        (3, EVERYTHING - {"embeddings"}),
        (2, {"layer 1", "layer 2"}),
        (1, {"layer 2"}),
        (0, set()),
    ],
)
@every_family
def test_freezing_leaves_the_named_parts_trained(family, freeze, expected):
    assert trained(of(family, freeze=freeze)) - {"rest"} == expected


def test_trained_parameters_have_the_expected_names():
    names = [name for name, p in of("bert", "pooler", 1).named_parameters() if p.requires_grad]
    assert names
    assert all(name.startswith(("backbone.encoder.layer.2.", "backbone.pooler.")) for name in names)


def test_freezing_replaces_earlier_freezing():
    encoder = of("bert", freeze="encoder")
    assert encoder.frozen
    encoder.freeze("none")
    assert not encoder.has_frozen_parameters


@pytest.mark.parametrize("freeze", [-1, 4, "all", True, 1.5])
def test_an_invalid_freeze_is_refused(freeze):
    assert "0 to 3" in user_error(of, "bert", freeze=freeze)


def test_a_frozen_encoder_has_no_dropout(batch):
    encoder = of("bert", freeze="encoder")
    calm = encoder(*batch)
    torch.testing.assert_close(encoder(*batch), calm)
    torch.testing.assert_close(encoder.train()(*batch), calm)
    torch.testing.assert_close(nn.Sequential(encoder).train()[0](*batch), calm)


def test_a_trained_encoder_has_dropout_only_in_training_mode(batch):
    encoder = of("bert")
    assert not torch.equal(encoder(*batch), encoder(*batch))
    encoder.eval()
    assert torch.equal(encoder(*batch), encoder(*batch))


def test_an_unfrozen_encoder_has_dropout_again(batch):
    encoder = of("bert", freeze="encoder")
    encoder.freeze("none")
    encoder.train()
    assert not torch.equal(encoder(*batch), encoder(*batch))


def test_loading_gives_the_saved_weights_in_single_precision(tiny_encoder):
    encoder = EncoderSource(str(tiny_encoder), 64).load()
    saved = AutoModel.from_pretrained(tiny_encoder).state_dict()
    ours = encoder.backbone.state_dict()
    assert {name for name in saved if "pooler" not in name} == set(ours)
    for name, value in ours.items():
        torch.testing.assert_close(value, saved[name], rtol=0, atol=0)
        assert value.dtype in (torch.float32, torch.int64)


def test_a_loaded_encoder_has_dropout_unless_frozen(tiny_encoder, batch):
    trained, frozen = (EncoderSource(str(tiny_encoder), 64, freeze=freeze).load() for freeze in ("none", "encoder"))
    assert not torch.equal(trained(*batch), trained(*batch))
    assert torch.equal(frozen(*batch), frozen(*batch))


def test_loading_is_silent(tiny_encoder, caplog, capfd):
    with caplog.at_level(logging.INFO):
        EncoderSource(str(tiny_encoder), 64).load()
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_dropout_settings_reach_the_configuration_of_the_encoder(tiny_encoder):
    config = EncoderSource(str(tiny_encoder), 64, hidden_dropout=0.2, attention_dropout=0.0).load().backbone.config
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.2, 0.0)


def test_dropouts_default_to_the_pre_trained_values(tiny_encoder):
    config, pretrained = (
        EncoderSource(str(tiny_encoder), 64).load().backbone.config,
        AutoConfig.from_pretrained(tiny_encoder),
    )
    assert config.hidden_dropout_prob == pretrained.hidden_dropout_prob == 0.1
    assert config.attention_probs_dropout_prob == pretrained.attention_probs_dropout_prob == 0.1


@every_family
def test_dropouts_of_0_disable_all_dropout_in_every_family(family, tmp_path, batch):
    AutoModel.from_config(FAMILIES[family]).save_pretrained(tmp_path)
    encoder = EncoderSource(str(tmp_path), 32, hidden_dropout=0.0, attention_dropout=0.0).load()
    assert encoder.training
    assert torch.equal(encoder(*batch), encoder(*batch))
    assert all(module.p == 0 for module in encoder.modules() if isinstance(module, nn.Dropout))


def test_a_folder_without_a_configuration_is_refused(tmp_path):
    assert "config.json" in user_error(EncoderSource(str(tmp_path)).locate)
    assert "config.json" in user_error(EncoderSource(str(tmp_path)).load)


def test_a_directory_without_weights_is_refused(tmp_path):
    FAMILIES["bert"].save_pretrained(tmp_path)
    assert str(tmp_path) in user_error(EncoderSource(str(tmp_path)).load)


def test_a_broken_configuration_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    assert str(tmp_path) in user_error(EncoderSource(str(tmp_path)).load)


def test_a_truncated_weights_file_is_refused(tiny_encoder, tmp_path):
    shutil.copytree(tiny_encoder, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "cannot be loaded" in user_error(EncoderSource(str(tmp_path / "cut"), max_length=8).load)


def test_custom_code_of_a_model_is_never_run(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    auto_map = {"AutoConfig": "own.Config", "AutoModel": "own.Model", "AutoTokenizer": ["own.Tokenizer", None]}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": auto_map}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": auto_map}))
    monkeypatch.setattr("builtins.input", lambda prompt="": "y")
    assert "cannot be loaded" in user_error(EncoderSource(str(tmp_path)).load)
    assert "no tokenizer" in user_error(load_tokenizer, str(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("family", "longest"), [("bert", 32), ("roberta", 32), ("distilbert", 32)])
def test_a_max_length_above_the_number_of_positions_is_refused(family, longest, tmp_path):
    AutoModel.from_config(FAMILIES[family]).save_pretrained(tmp_path)
    assert EncoderSource(str(tmp_path), max_length=longest).load().size == 16
    line = user_error(EncoderSource(str(tmp_path), max_length=longest + 1).load)
    assert line == f"encoder.max_length={longest + 1}: this encoder takes at most {longest} tokens"


def test_rotary_positions_do_not_limit_the_length(tmp_path):
    AutoModel.from_config(FAMILIES["modernbert"]).save_pretrained(tmp_path)
    assert EncoderSource(str(tmp_path), max_length=10_000).load().size == 16


def test_a_hub_name_is_not_changed(monkeypatch):
    monkeypatch.setattr("counterpoise.model.encoder.require_model", lambda name, revision: None)
    assert EncoderSource("bert-base-uncased").locate() == "bert-base-uncased"


def graphs_of_an_epoch(encoder: Encoder, seed: int) -> int:
    """Return how many graphs there are after training and evaluation on batches of many lengths and sizes."""
    rng = np.random.default_rng(seed)
    for number, (size, width) in enumerate(rng.integers(2, 30, (12, 2)).tolist()):
        encoder.train(number % 4 > 0)
        mask = (torch.arange(width) < torch.from_numpy(rng.integers(1, width + 1, (size, 1)))).long()
        ids = torch.from_numpy(rng.integers(4, 50, (size, width)))
        encoder(ids[mask.bool()] if encoder.packed else ids, mask).square().sum().backward()
    return counters["stats"]["unique_graphs"]


# Packed texts are attended to one by one on a CPU, which divides the graph.
@pytest.mark.parametrize(("packed", "most"), [(False, 2), (True, 14)])
def test_one_compilation_serves_all_lengths(packed, most, tiny_encoder, monkeypatch):
    # How often something is compiled is up to the tracing; turning it into machine code takes half a minute.
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    encoder = EncoderSource(str(tiny_encoder), 64, packed=packed, compile=True).load()
    first = graphs_of_an_epoch(encoder, 0)
    assert 0 < first <= most
    assert graphs_of_an_epoch(encoder, 1) == first


def test_a_compiled_encoder_has_the_same_weights_and_vectors(tiny_encoder, monkeypatch, batch):
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    torch._dynamo.reset()
    plain, compiled = (EncoderSource(str(tiny_encoder), 64, compile=choice).load().eval() for choice in (False, True))
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    assert [name for name, _ in compiled.named_modules()] == [name for name, _ in plain.named_modules()]
    torch.testing.assert_close(compiled(*batch), plain(*batch), rtol=0, atol=1e-6)


def test_compiling_without_a_compiler_is_refused(tiny_encoder, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "install g++" in user_error(EncoderSource(str(tiny_encoder), 64, compile=True).load)
