import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from transformers import (
    AlbertConfig,
    AutoModel,
    BertConfig,
    DebertaV2Config,
    ModernBertConfig,
    PreTrainedConfig,
    RobertaConfig,
)

from counterpoise.data.batching import TokenDataset
from counterpoise.data.token_store import TokenStore
from counterpoise.errors import UserError
from counterpoise.model import packed_attention as packed
from counterpoise.model.embeddings import encode
from counterpoise.model.encoder import Encoder, EncoderSource

PAD = 1
SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 24,
    "pad_token_id": PAD,
}
FAMILIES: dict[str, PreTrainedConfig] = {
    "bert": BertConfig(**SIZES),
    "roberta": RobertaConfig(**SIZES),
    # Local attention in the second layer, shorter than the longest text: positions are rotations.
    "modernbert": ModernBertConfig(
        **SIZES,
        local_attention=8,
        global_attn_every_n_layers=2,
        bos_token_id=2,
        eos_token_id=3,
        cls_token_id=2,
        sep_token_id=3,
    ),
}
LENGTHS = torch.tensor([20, 3, 3, 9, 1, 20])
"""More tokens than there are positions."""

every_encoder = pytest.mark.parametrize(
    ("family", "pooling"),
    [
        *((family, pooling) for family in FAMILIES for pooling in ("mean", "cls")),
        ("bert", "pooler"),
        ("roberta", "pooler"),
    ],
)


def of(family: str, pooling: str = "mean", attention: str = "packed") -> Encoder:
    torch.manual_seed(0)
    backbone = AutoModel.from_config(FAMILIES[family], attn_implementation=attention)
    # At their initial size a random encoder's attention hardly tells tokens apart.
    for parameter in backbone.parameters():
        nn.init.normal_(parameter.data, std=0.3) if parameter.ndim > 1 else None
    return Encoder(backbone, pooling).eval()


def padded() -> tuple[Tensor, Tensor]:
    ids = torch.randint(4, 50, (len(LENGTHS), 20), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(20) < LENGTHS[:, None]).long()
    return torch.where(mask.bool(), ids, PAD), mask


def gradients(encoder: Encoder, vectors: Tensor) -> list[Tensor]:
    """Return the gradients of a loss that weighs every number of the vectors differently."""
    encoder.zero_grad()
    (vectors * torch.linspace(-1, 1, vectors.numel()).view_as(vectors)).sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []
    return [p.grad.clone() for p in encoder.parameters()]


def varlen_reference(query, key, value, bounds, bounds_k, longest, longest_k, *, scale, window_size):
    """Return what the kernel of a GPU does, query by query: softmax over the window of its own text."""
    assert bounds.dtype == torch.int32
    assert bounds.diff().max() == longest
    out = torch.empty_like(query)
    for start, end in zip(bounds.tolist(), bounds[1:].tolist(), strict=False):
        for i in range(start, end):
            low = start if window_size[0] < 0 else max(start, i - window_size[0])
            high = end if window_size[1] < 0 else min(end, i + window_size[1] + 1)
            weights = torch.einsum("hd,khd->hk", query[i], key[low:high]).mul(scale).softmax(-1)
            out[i] = torch.einsum("hk,khd->hd", weights, value[low:high])
    return out


@pytest.mark.parametrize(("attention", "dtype"), [("sdpa", torch.float64), ("sdpa", torch.float32), ("eager", None)])
@every_encoder
def test_packed_and_padded_texts_have_equal_vectors_and_gradients(family, pooling, attention, dtype):
    ids, mask = padded()
    reference, encoder = of(family, pooling, attention), of(family, pooling)
    if dtype:
        reference, encoder = reference.to(dtype), encoder.to(dtype)
    expected, vectors = reference(ids, mask), encoder(ids[mask.bool()], mask)
    tolerance = {"rtol": 0, "atol": 1e-12 if dtype == torch.float64 else 1e-5}
    torch.testing.assert_close(vectors, expected, **tolerance)
    for ours, theirs in zip(gradients(encoder, vectors), gradients(reference, expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4 if dtype != torch.float64 else 1e-10, atol=2e-5)


@every_encoder
def test_the_gpu_kernel_gets_arguments_that_give_equal_vectors(family, pooling, monkeypatch):
    monkeypatch.setattr(packed, "_has_kernel", lambda query, dropout: True)
    monkeypatch.setattr(packed, "varlen_attn", varlen_reference)
    ids, mask = padded()
    with torch.no_grad():
        expected = of(family, pooling, "sdpa").double()(ids, mask)
        vectors = of(family, pooling).double()(ids[mask.bool()], mask)
    torch.testing.assert_close(vectors, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_batch_causes_no_synchronisation_with_the_device(family, monkeypatch):
    monkeypatch.setattr(packed, "_has_kernel", lambda query, dropout: True)
    monkeypatch.setattr(packed, "varlen_attn", lambda query, *others, **options: query.clone())
    ids, mask = padded()
    encoder, tokens = of(family), ids[mask.bool()]
    # A tensor without numbers refuses whatever would ask for one.
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        tokens, mask = fake.from_tensor(tokens), fake.from_tensor(mask)
        assert encoder(tokens, mask).shape == (len(LENGTHS), 16)
        monkeypatch.undo()
        with pytest.raises(DataDependentOutputException):
            encoder(tokens, mask)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_and_padded_texts_agree_on_a_gpu_in_half_precision(family):
    ids, mask = (values.cuda() for values in padded())
    reference, encoder = of(family, attention="sdpa").cuda(), of(family).cuda()
    with torch.autocast("cuda", torch.bfloat16):
        expected, vectors = reference(ids, mask), encoder(ids[mask.bool()], mask)
    torch.testing.assert_close(vectors, expected, rtol=0.05, atol=0.05)
    ours, theirs = (
        torch.cat([g.flatten() for g in gradients(*of)]) for of in ((encoder, vectors), (reference, expected))
    )
    assert torch.cosine_similarity(ours, theirs, 0) > 0.99


@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoder_of_packed_batches_accepts_padded_batches(family):
    ids, mask = padded()
    torch.testing.assert_close(of(family)(ids, mask), of(family, attention="sdpa")(ids, mask), rtol=0, atol=0)


def test_neighbouring_texts_of_equal_length_share_one_attention_call():
    bounds = nn.functional.pad(LENGTHS.cumsum(0), (1, 0))
    assert packed.Packing(bounds, 20).runs == [(1, 20), (2, 3), (1, 9), (1, 1), (1, 20)]


def test_positions_start_after_the_padding_index_in_families_that_do_so():
    assert {family: packed.first_position(of(family).backbone) for family in FAMILIES} == {
        "bert": 0,
        "roberta": PAD + 1,
        "modernbert": 0,
    }


def test_attention_dropout_applies_to_packed_batches():
    ids, mask = padded()
    encoder = of("bert")
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    tokens = ids[mask.bool()]
    assert torch.equal(encoder.train()(tokens, mask), encoder(tokens, mask))
    for layer in encoder.layers:
        layer.attention.self.dropout.p = 0.5
    assert not torch.equal(encoder(tokens, mask), encoder(tokens, mask))
    torch.testing.assert_close(encoder.eval()(tokens, mask), encoder(ids, mask), rtol=0, atol=1e-5)


def test_a_packed_batch_works_under_autocast():
    ids, mask = padded()
    encoder = of("bert")
    with torch.autocast("cpu", torch.bfloat16):
        vectors = encoder(ids[mask.bool()], mask)
    torch.testing.assert_close(vectors.float(), encoder(ids, mask), rtol=0.1, atol=0.1)


def test_an_encoder_of_padded_batches_refuses_a_packed_batch():
    ids, mask = padded()
    with pytest.raises(ValueError, match="packed=True"):
        of("bert", attention="sdpa")(ids[mask.bool()], mask)


def test_a_packed_dataset_is_encoded_like_a_padded_one(tiny_encoder):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 30, 40)
    store = TokenStore(Path(), rng.integers(4, 50, lengths.sum()).astype(np.uint16), np.cumsum([0, *lengths]), 0)
    vectors = []
    for pack in (False, True):
        dataset = TokenDataset(store, np.arange(40), np.zeros(40, int), 0, packed=pack)
        encoder = EncoderSource(str(tiny_encoder), 64, packed=pack).load()
        assert encoder.packed == pack
        vectors.append(encode(encoder, dataset, 8, torch.device("cpu")))
    np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-5)


def test_loading_packed_does_not_change_mode_and_weights(tiny_encoder):
    plain, encoder = (EncoderSource(str(tiny_encoder), 64, packed=pack).load() for pack in (False, True))
    assert encoder.training
    assert encoder.state_dict().keys() == plain.state_dict().keys()
    assert copy.deepcopy(encoder).packed


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        (DebertaV2Config(**SIZES, relative_attention=True, pos_att_type=["c2p", "p2c"]), "mean"),
        (AlbertConfig(**SIZES, embedding_size=16), "pooler"),
    ],
)
def test_an_encoder_that_mixes_packed_texts_is_refused_in_one_line(config, pooling, tmp_path):
    AutoModel.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="packed=false") as error:
        EncoderSource(str(tmp_path), 24, pooling=pooling, packed=True).load()
    assert "\n" not in str(error.value)


def test_packing_with_another_attention_is_refused(tiny_encoder):
    with pytest.raises(UserError, match="attention=eager"):
        EncoderSource(str(tiny_encoder), 64, packed=True, attention="eager").load()
