import numpy as np
import pyarrow as pa
import pytest
import torch

from counterpoise.data.batching import TokenDataset
from counterpoise.data.token_store import TokenStore, load_tokenizer, tokenise
from counterpoise.data.tokenisation import Tokenisation
from counterpoise.model.embeddings import PrecomputedEmbeddings, cached_embeddings, encode, fingerprint
from counterpoise.model.encoder import Encoder, EncoderSource

CPU = torch.device("cpu")
TEXTS = ["word1 word2", "alpha0", "beta1 word3 beta2 word4 word5 word6", "gamma7 word9 word8", "delta3 delta4", ""]


@pytest.fixture
def encoder(tiny_encoder) -> Encoder:
    return EncoderSource(str(tiny_encoder), 64).load()


@pytest.fixture
def store(tiny_encoder) -> TokenStore:
    return tokens(tiny_encoder, TEXTS)


def tokens(tiny_encoder, texts: list[str], max_length: int = 16) -> TokenStore:
    column = pa.chunked_array([pa.array(texts, pa.large_string())])
    return tokenise(column, load_tokenizer(str(tiny_encoder)), Tokenisation(max_length), "texts")


def dataset(store: TokenStore, rows) -> TokenDataset:
    return TokenDataset(store, np.array(rows), np.zeros(len(rows), int), pad=0)


def one_by_one(encoder: Encoder, store: TokenStore, rows) -> torch.Tensor:
    """The vector of each row, encoded on its own: nothing is padded or put in order."""
    encoder.eval()
    with torch.no_grad():
        inputs = [dataset(store, [row]).inputs(np.array([0])) for row in rows]
        return torch.cat([encoder(batch["input_ids"], batch["attention_mask"]) for batch in inputs]).numpy()


def stored(encoder: Encoder, store: TokenStore) -> np.ndarray:
    return cached_embeddings(lambda: encoder, fingerprint(encoder), store, 0, 2, CPU)


def runs(encoder: Encoder) -> list[int]:
    """A list that gets the number of texts of each call of the encoder."""
    calls: list[int] = []
    encoder.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    return calls


@pytest.mark.parametrize("batch_size", [1, 2, 64])
@pytest.mark.parametrize("rows", [range(6), [4, 0, 2]], ids=["all rows", "some rows"])
def test_embeddings_are_computed_without_dropout_in_the_order_of_the_rows(encoder, store, batch_size, rows):
    vectors = encode(encoder, dataset(store, rows), batch_size, CPU)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(rows), 16)
    np.testing.assert_allclose(vectors, one_by_one(encoder, store, rows), rtol=0, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_the_encoder_and_random_state_are_not_modified(encoder, store, training):
    encoder.train(training)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    state = torch.get_rng_state()
    encode(encoder, dataset(store, range(6)), 2, CPU)
    assert encoder.training == encoder.backbone.training == training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not encoder.frozen


def test_a_frozen_encoder_stays_frozen(tiny_encoder, store):
    encoder = EncoderSource(str(tiny_encoder), 64, freeze="encoder").load()
    encode(encoder, dataset(store, range(6)), 2, CPU)
    assert encoder.frozen
    assert not encoder.backbone.training


def test_texts_are_encoded_once_and_cached(encoder, store, tiny_encoder):
    calls = runs(encoder)
    first = stored(encoder, store)
    assert sum(calls) == 6
    np.testing.assert_allclose(first, one_by_one(encoder, store, range(6)), rtol=0, atol=1e-6)
    calls.clear()
    again = stored(encoder, store)
    assert not calls
    np.testing.assert_array_equal(again, first)
    another = EncoderSource(str(tiny_encoder), 64).load()
    calls = runs(another)
    np.testing.assert_array_equal(stored(another, store), first)
    assert not calls


def test_cached_embeddings_are_memory_mapped(encoder, store):
    assert isinstance(stored(encoder, store), np.memmap)


def test_other_texts_or_tokens_are_encoded_separately(encoder, tiny_encoder, store):
    stored(encoder, store)
    for others in (tokens(tiny_encoder, TEXTS[::-1]), tokens(tiny_encoder, TEXTS, max_length=4)):
        np.testing.assert_allclose(stored(encoder, others), one_by_one(encoder, others, range(6)), rtol=0, atol=1e-6)


def test_the_fingerprint_covers_weights_architecture_and_pooling(tiny_encoder):
    def key(change: str = "", **options) -> str:
        encoder = EncoderSource(str(tiny_encoder), 64, **options).load()
        if change:
            with torch.no_grad():
                encoder.get_parameter(change).view(-1)[0] += 1e-6
        return fingerprint(encoder)

    same = key()
    assert key() == same
    assert key(freeze="encoder") == same
    others = {
        key("backbone.embeddings.word_embeddings.weight"),
        key("backbone.encoder.layer.1.output.LayerNorm.bias"),
        key(pooling="cls"),
        key(pooling="pooler"),
    }
    assert len(others | {same}) == 5


def test_a_changed_encoder_does_not_reuse_cached_embeddings(encoder, store):
    before = stored(encoder, store)
    torch.nn.init.normal_(encoder.layers[1].output.LayerNorm.weight)
    after = stored(encoder, store)
    assert abs(after - before).max() > 1e-3
    np.testing.assert_allclose(after, one_by_one(encoder, store, range(6)), rtol=0, atol=1e-6)


def test_precomputed_embeddings_replace_an_encoder_without_parameters():
    placed = PrecomputedEmbeddings(16)
    given = torch.rand(3, 16)
    assert placed(given) is given
    assert placed.size == 16
    assert not list(placed.parameters())
    assert not placed.state_dict()
