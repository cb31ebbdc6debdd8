"""Tiny random models of many families load, pool, freeze and train."""

import pytest
import torch
import transformers

from counterpoise.model.encoder import EncoderSource
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
}


@pytest.fixture(params=FAMILIES)
def folder(request, tmp_path):
    torch.manual_seed(0)
    transformers.AutoModel.from_config(FAMILIES[request.param]).save_pretrained(tmp_path)
    return tmp_path


def test_a_family_pools_freezes_and_trains(folder):
    encoder = EncoderSource(str(folder), max_length=12).load()
    ids, mask = torch.randint(4, 60, (3, 12)), torch.ones(3, 12, dtype=torch.int64)
    ids[1, 8:], mask[1, 8:] = 1, 0
    vectors = encoder(ids, mask)
    assert vectors.shape == (3, encoder.size) == (3, 16)
    vectors.sum().backward()
    assert encoder.backbone.get_input_embeddings().weight.grad.any()
    assert not [name for name, parameter in encoder.named_parameters() if "decoder" in name.split(".")]

    groups = Optim(layer_decay=0.5).groups(encoder, torch.nn.Linear(16, 3))
    grouped = {id(parameter) for group in groups for parameter in group["params"]}
    assert {id(parameter) for parameter in encoder.parameters()} <= grouped

    encoder.freeze(1)
    assert not encoder.backbone.get_input_embeddings().weight.requires_grad
    assert all(parameter.requires_grad for parameter in encoder.layers[-1].parameters())


def test_padding_does_not_change_a_vector(folder):
    encoder = EncoderSource(str(folder), max_length=12).load().eval()
    ids = torch.randint(4, 60, (1, 6))
    padded = torch.cat([ids, torch.ones(1, 4, dtype=torch.int64)], dim=1)
    mask = torch.tensor([[1] * 6 + [0] * 4])
    with torch.no_grad():
        torch.testing.assert_close(encoder(padded, mask), encoder(ids, mask[:, :6]), atol=1e-5, rtol=1e-4)
