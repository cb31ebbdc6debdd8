"""Tiny random models of many families load, pool, freeze and train."""

from pathlib import Path

import pytest
import torch
import transformers

from counterpoise.errors import UserError
from counterpoise.model.encoder import Encoder, EncoderSource
from counterpoise.model.optim import Optim

SMALL = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 1}
POSITIONS = {"intermediate_size": 32, "max_position_embeddings": 40}
FAMILIES = {
    "bert": transformers.BertConfig(**SMALL, **POSITIONS),
    "roberta": transformers.RobertaConfig(**SMALL, **POSITIONS),
    "electra": transformers.ElectraConfig(**SMALL, **POSITIONS, embedding_size=8),
    "albert": transformers.AlbertConfig(**SMALL, **POSITIONS, embedding_size=8),
    "distilbert": transformers.DistilBertConfig(
        vocab_size=60, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=40, pad_token_id=1
    ),
    "modernbert": transformers.ModernBertConfig(
        **SMALL, **POSITIONS, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3
    ),
    "deberta-v2": transformers.DebertaV2Config(**SMALL, **POSITIONS),
    "mpnet": transformers.MPNetConfig(**SMALL, **POSITIONS),
    "longformer": transformers.LongformerConfig(**SMALL, **POSITIONS, attention_window=4),
    "xlnet": transformers.XLNetConfig(vocab_size=60, d_model=16, n_layer=2, n_head=2, d_inner=32, pad_token_id=1),
    "gpt2": transformers.GPT2Config(vocab_size=60, n_embd=16, n_layer=2, n_head=2, n_positions=40),
    "t5": transformers.T5Config(vocab_size=60, d_model=16, num_layers=2, num_heads=2, d_ff=32, d_kv=8),
    "bart": transformers.BartConfig(
        vocab_size=60,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=40,
    ),
    "opt": transformers.OPTConfig(
        **SMALL, ffn_dim=32, max_position_embeddings=40, word_embed_proj_dim=16, bos_token_id=2, eos_token_id=3
    ),
    "gpt-neo": transformers.GPTNeoConfig(
        vocab_size=60,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=40,
    ),
    "bloom": transformers.BloomConfig(vocab_size=60, hidden_size=16, n_layer=2, n_head=2),
    "llama": transformers.LlamaConfig(**SMALL, **POSITIONS, num_key_value_heads=2),
    "causal bert": transformers.BertConfig(**SMALL, **POSITIONS, is_decoder=True),
}
CAUSAL = ["gpt2", "opt", "gpt-neo", "bloom", "llama", "causal bert"]


def saved(name: str, folder: Path) -> Path:
    """Save a random model of a family."""
    torch.manual_seed(0)
    transformers.AutoModel.from_config(FAMILIES[name]).save_pretrained(folder)
    return folder


@pytest.fixture(params=FAMILIES)
def folder(request, tmp_path):
    return saved(request.param, tmp_path)


def test_a_family_pools_freezes_and_trains(folder):
    encoder = EncoderSource(str(folder), max_length=12).load()
    ids, mask = torch.randint(4, 60, (3, 12)), torch.ones(3, 12, dtype=torch.int64)
    ids[1, 8:], mask[1, 8:] = 1, 0
    vectors = encoder(ids, mask)
    assert vectors.shape == (3, encoder.size) == (3, 16)
    vectors.sum().backward()
    assert encoder.backbone.get_input_embeddings().weight.grad.any()
    if transformers.AutoConfig.from_pretrained(folder).is_encoder_decoder:
        assert not [name for name, parameter in encoder.named_parameters() if "decoder" in name.split(".")]

    groups = Optim(layer_decay=0.5).groups(encoder, torch.nn.Linear(16, 3))
    grouped = {id(parameter) for group in groups for parameter in group["params"]}
    assert {id(parameter) for parameter in encoder.parameters()} <= grouped

    for freeze in ("embeddings", 1):
        encoder.freeze(freeze)
        layers = {id(module) for module in encoder.layers.modules()}
        tables = [module for module in encoder.modules() if isinstance(module, torch.nn.Embedding)]
        assert not any(table.weight.requires_grad for table in tables if id(table) not in layers)
        assert all(parameter.requires_grad for parameter in encoder.layers[-1].parameters())
    encoder.freeze("embeddings")
    assert all(parameter.requires_grad for parameter in encoder.layers.parameters())


@pytest.mark.parametrize(
    ("name", "frozen"),
    [
        ("gpt2", {"wte", "wpe"}),
        ("gpt-neo", {"wte", "wpe"}),
        ("opt", {"decoder.embed_tokens", "decoder.embed_positions"}),
        ("bart", {"embed_tokens", "embed_positions", "layernorm_embedding"}),
        ("bloom", {"word_embeddings", "word_embeddings_layernorm"}),
        ("bert", {"embeddings"}),
    ],
)
def test_frozen_embeddings_are_tables_of_tokens_and_positions_and_their_norms(name, frozen, tmp_path):
    encoder = EncoderSource(str(saved(name, tmp_path)), max_length=12, freeze="embeddings").load()
    found = [key for key, parameter in encoder.backbone.named_parameters() if not parameter.requires_grad]
    assert all(key.startswith(tuple(f"{part}." for part in frozen)) for key in found)
    assert all(any(key.startswith(f"{part}.") for key in found) for part in frozen)


def loaded(folder, pooling: str, **settings):
    return EncoderSource(str(folder), max_length=12, pooling=pooling, **settings).load()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_first_token_of_a_causal_model_is_no_vector_of_a_text(name, attention, tmp_path):
    folder = saved(name, tmp_path)
    if name in CAUSAL:
        with pytest.raises(UserError, match=r"encoder\.pooling=cls.*encoder\.pooling=mean"):
            loaded(folder, "cls", attention=attention)
        assert loaded(folder, "mean", attention=attention).pooling == "mean"
    else:
        assert loaded(folder, "cls", attention=attention).pooling == "cls"


def test_the_pooler_of_a_causal_model_is_refused_too(tmp_path):
    with pytest.raises(UserError, match=r"encoder\.pooling=pooler"):
        loaded(saved("causal bert", tmp_path / "causal"), "pooler")
    loaded(saved("bert", tmp_path / "bert"), "pooler")


class LastToken(Encoder):
    def pool(self, hidden, attention_mask):
        return hidden[:, -1]


class LastTokenSource(EncoderSource):
    encoder_class = LastToken


def test_a_causal_model_with_a_pooling_of_its_own_is_accepted(tmp_path):
    LastTokenSource(str(saved("gpt2", tmp_path)), max_length=12, pooling="cls").load()


@pytest.mark.parametrize("freeze", ["none", "encoder"])
def test_the_check_of_the_first_token_leaves_no_trace(freeze, tmp_path):
    folder = saved("bert", tmp_path)
    random = torch.get_rng_state()
    encoder = loaded(folder, "cls", freeze=freeze)
    assert torch.equal(torch.get_rng_state(), random)
    assert encoder.training is (freeze == "none")
    assert {module.training for module in encoder.modules()} == {freeze == "none"}
    assert encoder.backbone.config._attn_implementation == "sdpa"
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_the_first_token_is_checked_without_the_attention_kernels_of_a_gpu(tmp_path):
    def attend(*arguments, **options):
        raise RuntimeError("this kernel needs a GPU")

    transformers.AttentionInterface.register("gpu_only", attend)
    transformers.AttentionMaskInterface.register("gpu_only", transformers.masking_utils.sdpa_mask)
    assert (
        loaded(saved("bert", tmp_path), "cls", attention="gpu_only").backbone.config._attn_implementation == "gpu_only"
    )


@pytest.mark.parametrize("name", ["bert", "causal bert"])
def test_packed_models_are_checked_too(name, tmp_path):
    folder = saved(name, tmp_path)
    if name == "bert":
        assert loaded(folder, "cls", packed=True).packed
    else:
        with pytest.raises(UserError, match=r"encoder\.pooling=cls"):
            loaded(folder, "cls", packed=True)


def test_padding_does_not_change_a_vector(folder):
    encoder = EncoderSource(str(folder), max_length=12).load().eval()
    ids = torch.randint(4, 60, (1, 6))
    padded = torch.cat([ids, torch.ones(1, 4, dtype=torch.int64)], dim=1)
    mask = torch.tensor([[1] * 6 + [0] * 4])
    with torch.no_grad():
        torch.testing.assert_close(encoder(padded, mask), encoder(ids, mask[:, :6]), atol=1e-5, rtol=1e-4)


def test_both_dropouts_reach_every_family_or_are_named(folder, caplog):
    encoder = EncoderSource(str(folder), max_length=12, hidden_dropout=0.0, attention_dropout=0.0).load()
    named = [record.getMessage().partition("=")[0] for record in caplog.records]
    family = encoder.backbone.config.model_type
    lacking = {"t5": "attention", "xlnet": "attention", "llama": "hidden"}.get(family)
    assert named == ([] if lacking is None else [f"encoder.{lacking}_dropout"])
    ids, mask = torch.randint(4, 60, (3, 12)), torch.ones(3, 12, dtype=torch.int64)
    assert encoder.training
    assert torch.equal(encoder(ids, mask), encoder(ids, mask))
    # A dropout that reaches the layers changes the vectors.
    encoder = EncoderSource(str(folder), max_length=12, hidden_dropout=0.5).load()
    assert torch.equal(encoder(ids, mask), encoder(ids, mask)) == (lacking == "hidden")
