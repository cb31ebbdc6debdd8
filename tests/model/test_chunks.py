"""Vectors of texts that are read in several chunks."""

import pytest
import torch

from counterpoise.data.batching import split_batch
from counterpoise.errors import UserError
from counterpoise.model.embeddings import fingerprint
from counterpoise.model.encoder import Encoder, EncoderSource

IDS = torch.randint(4, 40, (3, 24), generator=torch.Generator().manual_seed(0))
CHUNKS = [3, 1, 2]


def load(folder, chunk_pooling: str = "mean", **settings) -> Encoder:
    return EncoderSource(str(folder), 8, "chunk", chunk_pooling=chunk_pooling, **settings).load().eval()


def batch(chunks=CHUNKS) -> dict[str, torch.Tensor]:
    """Texts of several chunks of 8 tokens, and one of a single chunk of 5 tokens."""
    mask = (torch.arange(24) < torch.tensor([5 if number == 1 else number * 8 for number in chunks])[:, None]).long()
    return {"input_ids": IDS * mask, "attention_mask": mask}


@torch.no_grad()
def one_by_one(encoder: Encoder, pooling: str) -> torch.Tensor:
    """The pooled vectors of the chunks of each text, each chunk encoded on its own."""
    vectors = []
    for ids, mask in zip(*batch().values(), strict=True):
        parts = [ids[start : start + 8][mask[start : start + 8].bool()][None] for start in range(0, int(mask.sum()), 8)]
        own = torch.cat([encoder(part, torch.ones_like(part)) for part in parts])
        vectors.append(own.mean(0) if pooling == "mean" else own.amax(0))
    return torch.stack(vectors)


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("of_tokens", ["mean", "cls", "pooler"])
def test_the_vector_of_a_text_is_the_mean_or_maximum_of_its_chunks(tiny_encoder, pooling, of_tokens):
    encoder = load(tiny_encoder, pooling, pooling=of_tokens)
    with torch.no_grad():
        found = encoder(**batch())
        separate = encoder(*(values.unflatten(1, (3, 8)) for values in batch().values()))
    torch.testing.assert_close(found, one_by_one(encoder, pooling), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(separate, found)


def test_short_texts_have_the_vectors_of_an_encoder_without_chunks(tiny_encoder):
    ids, mask = (values[:, :8] for values in batch().values())
    plain = EncoderSource(str(tiny_encoder), 8).load().eval()
    with torch.no_grad():
        assert torch.equal(load(tiny_encoder)(ids, mask), plain(ids, mask))


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_gradients_of_a_batch_in_several_passes_are_those_of_one_pass(tiny_encoder, pooling):
    encoder = load(tiny_encoder, pooling).double()
    gradients = []
    for parts in (1, 2, 3):
        encoder.zero_grad()
        for part in split_batch(batch(), parts):
            encoder(**part).sin().sum().backward()
        gradients.append(torch.cat([each.grad.flatten() for each in encoder.parameters() if each.grad is not None]))
    assert gradients[0].isfinite().all()
    assert gradients[0].norm() > 0
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-9, atol=1e-12)


def test_the_fingerprint_of_embeddings_depends_on_the_chunks(tiny_encoder):
    plain = EncoderSource(str(tiny_encoder), 8).load()
    assert len({fingerprint(each) for each in (plain, load(tiny_encoder), load(tiny_encoder, "max"))}) == 3


def test_packed_batches_and_unknown_poolings_are_refused_in_one_line(tiny_encoder):
    for settings, named in (
        ({"packed": True}, "encoder.packed=true"),
        ({"chunk_pooling": "sum"}, "encoder.chunk_pooling=sum"),
    ):
        with pytest.raises(UserError, match=named):
            load(tiny_encoder, **settings)
