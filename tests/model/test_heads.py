"""Every head of conf/head and unusual heads of a fork are saved, initialised, retrained, adjusted and exported."""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from commandline import ROOT
from counterpoise.balance import ClassIndex, CrossEntropy, Strategy
from counterpoise.commands import onnx_export
from counterpoise.errors import UserError
from counterpoise.model.embeddings import PrecomputedEmbeddings
from counterpoise.model.heads import (
    AutoHead,
    HeadFactory,
    build_head,
    rebuild_head,
    set_output_bias,
    shift_logits,
)
from counterpoise.model.module import Classifier
from counterpoise.model.optim import Optim
from counterpoise.model.second_stage import FirstStage, PostHoc, Retrained, TauNormalised

H, C = 6, 4
COUNTS = np.array([40, 20, 10, 4])
CLASSES = np.repeat(np.arange(C), COUNTS)
SHIFT = torch.tensor([0.5, -1.0, 2.0, 0.25])


class LabelAttention(nn.Module):
    """Attention of one query per class over parts of the vector. Its output bias is a parameter of its own."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.keys = nn.Linear(1, 8)
        self.queries = nn.Parameter(torch.randn(num_classes, 8))
        self.offset = nn.Parameter(torch.zeros(num_classes))
        self.values = nn.Linear(in_features, in_features)

    def forward(self, vectors: Tensor) -> Tensor:
        keys = self.keys(vectors.unsqueeze(-1))
        weights = (keys @ self.queries.T).softmax(1)
        return (weights * self.values(vectors).unsqueeze(-1)).sum(1) + self.offset


class OutputFirst(nn.Module):
    """Registers the output layer before the hidden one, which has a bias of the same size."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.output = nn.Linear(num_classes, num_classes)
        self.hidden = nn.Linear(in_features, num_classes)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.output(torch.tanh(self.hidden(vectors)))


class OwnShift(nn.Module):
    """Has parameters with the names of a ShiftedHead."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.ones(in_features))
        self.head = nn.Linear(in_features, num_classes)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.head(torch.tanh(vectors + self.shift))


class Mixture(nn.Module):
    """A gated mixture of two layers, neither of whose biases is added to the logits."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.gate, self.one, self.other = (nn.Linear(in_features, size) for size in (1, num_classes, num_classes))

    def forward(self, vectors: Tensor) -> Tensor:
        gate = self.gate(vectors).sigmoid()
        return gate * self.one(vectors) + (1 - gate) * self.other(vectors)


class Scaled(nn.Module):
    """A learned temperature other than 1 multiplies the bias."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, num_classes)
        self.temperature = nn.Parameter(torch.tensor(2.0))

    def forward(self, vectors: Tensor) -> Tensor:
        return self.linear(vectors) / self.temperature


class Noisy(nn.Module):
    """Draws random numbers in evaluation mode too."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, num_classes)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.linear(vectors) + 0.1 * torch.rand(self.linear.out_features)


def sequence(*layers: Callable[[int, int], nn.Module]) -> HeadFactory:
    return lambda in_features, num_classes: nn.Sequential(*(layer(in_features, num_classes) for layer in layers))


def parametrised(in_features: int, num_classes: int) -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Linear(in_features, num_classes))


def pruned(in_features: int, num_classes: int) -> nn.Module:
    """A linear layer whose weight is not a parameter, but computed in each forward pass."""
    return nn.utils.prune.random_unstructured(nn.Linear(in_features, num_classes), "weight", amount=0.3)


def spectral(in_features: int, num_classes: int) -> nn.Module:
    return nn.utils.spectral_norm(nn.Linear(in_features, num_classes))


CONFIGURED = {path.stem: instantiate(OmegaConf.load(path)) for path in sorted(Path(ROOT / "conf/head").glob("*.yaml"))}
UNUSUAL: dict[str, HeadFactory] = {
    "label attention": LabelAttention,
    "output first": OutputFirst,
    "own shift": OwnShift,
    "mixture": Mixture,
    "scaled": Scaled,
    "no bias": partial(nn.Linear, bias=False),
    "default linear": nn.Linear,
    "weight norm": parametrised,
    "pruned": pruned,
    "spectral norm": spectral,
    "cosine for a margin loss": lambda in_features, num_classes: AutoHead()(in_features, num_classes, 16.0),
    "dropout last": sequence(nn.Linear, lambda *_: nn.Dropout(0.5)),
    "dropout first": sequence(lambda *_: nn.Dropout(0.5), nn.Linear),
    "batch norm": sequence(nn.Linear, lambda _, num_classes: nn.BatchNorm1d(num_classes)),
    "log-probabilities": sequence(nn.Linear, lambda *_: nn.LogSoftmax(-1)),
}
HEADS = CONFIGURED | UNUSUAL
WITHOUT_OUTPUT_BIAS = {
    "cosine",
    "mixture",
    "scaled",
    "no bias",
    "cosine for a margin loss",
    "log-probabilities",
}
LINEAR = {"auto", "linear", "no bias", "default linear"}
every_head = pytest.mark.parametrize("name", HEADS)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def vectors(seed: int = 0) -> Tensor:
    """Return embeddings [N, H] whose first C components tell the classes."""
    noise = torch.randn(len(CLASSES), H, generator=torch.Generator().manual_seed(seed))
    return noise + 2 * nn.functional.one_hot(torch.from_numpy(CLASSES), H)


@torch.no_grad()
def logits(head: nn.Module, inputs: Tensor | None = None) -> Tensor:
    """Return the logits in evaluation mode; the head keeps its mode."""
    modes = {module: module.training for module in head.modules()}
    values = head.eval()(vectors() if inputs is None else inputs)
    for module, mode in modes.items():
        module.training = mode
    return values


def contents(head: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in head.state_dict().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def first_stage(name: str, **given) -> FirstStage:
    correction = Strategy().correction(list("abcd"), ClassIndex.from_targets(CLASSES, C))
    split = {"train": 0, "validation": 1}
    stage = FirstStage(
        head=build_head(HEADS[name], H, C),
        embeddings=lambda which: vectors(split[which]).numpy(),
        targets=dict.fromkeys(split, CLASSES),
        correction=correction,
        effective_prior=correction.effective_prior,
        score=lambda values, targets: float((values.argmax(1) == targets).mean()),
        dropout=0.1,
        seed=3,
        head_factory=HEADS[name],
    )
    return replace(stage, **given)


@every_head
def test_a_head_maps_vectors_to_logits_and_trains(name):
    head = build_head(HEADS[name], H, C)
    values = head(vectors())
    assert values.shape == (len(CLASSES), C)
    values.square().sum().backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in head.parameters())


@every_head
@pytest.mark.parametrize("change", ["trained", "shifted", "retrained"])
def test_a_saved_head_is_restored_with_its_logits(name, change):
    head = build_head(HEADS[name], H, C)
    if change == "shifted":
        head = shift_logits(head, SHIFT)
    if change == "retrained":
        head = Retrained(epochs=1)(first_stage(name)).head
    state = {f"head.{key}": value for key, value in contents(head).items()} | {"encoder.shift": torch.zeros(1)}
    restored = rebuild_head(HEADS[name], H, C, state)
    restored.load_state_dict({key.removeprefix("head."): value for key, value in state.items() if key[:5] == "head."})
    assert torch.equal(logits(restored), logits(head))


def test_a_shift_of_a_head_with_a_shift_of_its_own_is_restored():
    def factory(in_features: int, num_classes: int) -> nn.Module:
        return shift_logits(OwnShift(in_features, num_classes), SHIFT)

    for head in (factory(H, C), shift_logits(factory(H, C), SHIFT)):
        state = {f"head.{key}": value for key, value in contents(head).items()}
        assert rebuild_head(factory, H, C, state).state_dict().keys() == head.state_dict().keys()


@every_head
def test_the_initial_bias_shifts_the_logits_or_is_reported_missing(name):
    head = build_head(HEADS[name], H, C)
    bias = np.array([3.0, -2.0, 0.5, 1.0])
    before, state, random = contents(head), logits(head), torch.get_rng_state()
    modes = [module.training for module in head.modules()]
    assert set_output_bias(head, bias, H) is (name not in WITHOUT_OUTPUT_BIAS)
    assert [module.training for module in head.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    changed = [key for key, value in head.state_dict().items() if not torch.equal(value, before[key])]
    if name in WITHOUT_OUTPUT_BIAS:
        assert not changed
        return
    assert len(changed) == 1
    np.testing.assert_allclose(head.state_dict()[changed[0]], bias)
    torch.testing.assert_close(
        logits(head) - state, (torch.tensor(bias).float() - before[changed[0]]).expand(state.shape)
    )


@pytest.mark.parametrize("size", [C, H])
def test_a_hidden_layer_as_wide_as_the_output_keeps_its_bias(size):
    head = OutputFirst(size, C)
    hidden = head.hidden.bias.clone()
    assert set_output_bias(head, np.arange(C), size)
    assert torch.equal(head.hidden.bias, hidden)
    assert head.output.bias.tolist() == [0, 1, 2, 3]


def test_a_head_that_draws_random_numbers_has_an_output_bias():
    head = Noisy(H, C)
    assert set_output_bias(head, np.arange(C), H)
    assert head.linear.bias.tolist() == [0, 1, 2, 3]


@every_head
def test_a_model_without_an_output_bias_says_so(name, caplog):
    bias = np.log(COUNTS / COUNTS.sum())
    with caplog.at_level(logging.INFO):
        for head_bias in (None, bias):
            assert not caplog.records
            Classifier(
                PrecomputedEmbeddings(H), None, Optim(), "abcd", COUNTS, 8, head=HEADS[name], head_bias=head_bias
            )
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(messages) == (name in WITHOUT_OUTPUT_BIAS)
    assert all("bias_init" in message for message in messages)


@every_head
def test_retraining_is_a_function_of_the_seed(name):
    first = first_stage(name)
    before = contents(first.head)
    results = []
    for earlier in range(3):
        torch.manual_seed(earlier)
        random = torch.get_rng_state()
        results.append(Retrained(epochs=2, batch_size=16)(replace(first, seed=3 + earlier // 2)).head)
        assert torch.equal(torch.get_rng_state(), random)
    one, same, other = map(contents, results)
    assert_same(one, same)
    assert any(not torch.equal(value, other[key]) for key, value in one.items())
    assert_same(contents(first.head), before)
    assert not any(module.training for module in results[0].modules())


@every_head
def test_retraining_starts_from_the_initial_bias(name):
    first = first_stage(name)
    head = Retrained(epochs=1, lr=1e-12)(first).head
    biases = [value for value in head.state_dict().values() if value.shape == (C,)]
    expected = torch.full((C,), -np.log(C), dtype=torch.float32)  # every class is drawn equally often
    starts = any(torch.allclose(value, expected) for value in biases)
    assert starts is (name not in WITHOUT_OUTPUT_BIAS)


@every_head
@pytest.mark.parametrize("tau", [0.0, 1.0, "auto"])
def test_post_hoc_adjustment_shifts_the_logits(name, tau):
    first = first_stage(name)
    before = contents(first.head)
    result = PostHoc(tau)(first)
    expected = logits(first.head) - result.settings["tau"] * torch.from_numpy(np.log(COUNTS / COUNTS.sum())).float()
    difference = logits(result.head) - expected
    torch.testing.assert_close(difference - difference[:, :1], torch.zeros_like(difference), atol=1e-4, rtol=0)
    assert_same(contents(first.head), before)
    assert all(module.training for module in first.head.modules())
    assert not any(module.training for module in result.head.modules())
    shared = {value.data_ptr() for value in first.head.state_dict().values()}
    assert not shared & {value.data_ptr() for value in result.head.state_dict().values()}


@every_head
def test_tau_normalisation_takes_linear_heads_only(name):
    first = first_stage(name)
    loss = CrossEntropy(first.correction)
    if name not in LINEAR:
        with pytest.raises(UserError, match="needs a linear head"):
            TauNormalised().check(first.correction, loss, first.head)
        return
    TauNormalised().check(first.correction, loss, first.head)
    result = TauNormalised(1.0)(first)
    expected = vectors() @ nn.functional.normalize(first.head.weight.detach()).T
    torch.testing.assert_close(logits(result.head), expected)
    assert result.head.state_dict().keys() == first.head.state_dict().keys()


@pytest.mark.parametrize(
    ("stage", "name"),
    [*((PostHoc, name) for name in HEADS), *((TauNormalised, name) for name in sorted(LINEAR))],
)
def test_tau_is_chosen_in_evaluation_mode(stage, name):
    seen = []

    def score(values: np.ndarray, targets: np.ndarray) -> float:
        seen.append(values)
        return 0.0

    for _ in range(2):
        stage("auto")(first_stage(name, head=build_head_once(name), score=score))
    half = len(seen) // 2
    for one, other in zip(seen[:half], seen[half:], strict=True):
        np.testing.assert_array_equal(one, other)
    if stage is PostHoc:
        np.testing.assert_allclose(seen[0], logits(build_head_once(name), vectors(1)), atol=1e-6)


class TokenMean(nn.Module):
    """Stands for an encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, H)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask.unsqueeze(-1).float()
        return (self.table(input_ids) * mask).sum(1) / mask.sum(1)


class SideBySide(nn.Module):
    """The logits of several heads, as one head: an export takes seconds however small the model is."""

    def __init__(self, heads: list[nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, vectors: Tensor) -> Tensor:
        return torch.cat([head(vectors) for head in self.heads], 1)


def test_exported_heads_have_the_same_logits(tmp_path):
    for library in ("onnx", "onnxscript"):
        pytest.importorskip(library)
    runtime = pytest.importorskip("onnxruntime")
    names = [*CONFIGURED, "label attention", "own shift"]
    heads = [shift_logits(build_head(HEADS[name], H, C), SHIFT) for name in names]
    model = SimpleNamespace(encoder=TokenMean(), head=SideBySide(heads))
    onnx_export._write_model(tmp_path / "model.onnx", model)
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    for size in (1, 5):
        ids, mask = torch.randint(20, (size, 7)), torch.ones(size, 7, dtype=torch.int64)
        (values,) = session.run(["logits"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        for name, head, found in zip(names, heads, np.split(values, len(heads), 1), strict=True):
            np.testing.assert_allclose(found, logits(head, model.encoder(ids, mask)), atol=1e-4, err_msg=name)


def build_head_once(name: str) -> nn.Module:
    """Return the same head at each call, in training mode, without an effect on later random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return build_head(HEADS[name], H, C)
