import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from counterpoise.errors import UserError
from counterpoise.model.embeddings import PrecomputedEmbeddings
from counterpoise.model.encoder import Encoder
from counterpoise.model.optim import Optim


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """Three layers."""
    config = BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    return Encoder(BertModel(config), "pooler")


@pytest.fixture(scope="module")
def head() -> nn.Module:
    return nn.Linear(8, 3)


@pytest.fixture
def rates(encoder, head):
    """Return the factor of the learning rate at each of `steps` optimizer steps."""

    def over(steps: int, **options) -> list[float]:
        optimizer, schedule = Optim(head_lr=1.0, encoder_lr=0.5, **options).build(encoder, head, steps)
        seen = []
        for _ in range(steps):
            head_lr = optimizer.param_groups[-1]["lr"]
            assert optimizer.param_groups[0]["lr"] == pytest.approx(head_lr / 2)
            seen.append(head_lr)
            optimizer.step()
            schedule.step()
        return seen

    return over


@pytest.mark.parametrize("layer_decay", [1.0, 0.9])
def test_every_parameter_is_in_exactly_one_group(encoder, head, layer_decay):
    groups = Optim(layer_decay=layer_decay).groups(encoder, head)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for module in (encoder, head) for p in module.parameters()}
    assert len({group["name"] for group in groups}) == len(groups)


def test_frozen_parameters_have_a_group_too(encoder, head):
    encoder.freeze("encoder")
    grouped = [p for group in Optim().groups(encoder, head) for p in group["params"]]
    encoder.freeze("none")
    assert len(grouped) == len([*encoder.parameters(), *head.parameters()])


@pytest.mark.parametrize("layer_decay", [1.0, 0.9])
def test_with_precomputed_embeddings_only_the_head_is_trained(head, layer_decay):
    groups = Optim(layer_decay=layer_decay, head_lr=0.3).groups(PrecomputedEmbeddings(8), head)
    assert [p for group in groups for p in group["params"]] == list(head.parameters())
    assert {group["lr"] for group in groups} == {0.3}


def test_all_parameters_but_biases_and_norms_have_weight_decay(encoder, head):
    plain = {
        id(p)
        for module in (*encoder.modules(), head)
        for name, p in module.named_parameters(recurse=False)
        if name == "bias" or isinstance(module, nn.LayerNorm)
    }
    assert len(plain) > 20
    for group in Optim(weight_decay=0.3).groups(encoder, head):
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.0 if id(parameter) in plain else 0.3)


def test_weight_decay_shrinks_matrices_only(encoder):
    head = nn.Linear(8, 3)
    nn.init.ones_(head.weight)
    nn.init.ones_(head.bias)
    optimizer, _ = Optim(head_lr=0.1, weight_decay=0.5, warmup=0).build(encoder, head, 10)
    for parameter in head.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(head.weight.data, torch.full((3, 8), 1 - 0.1 * 0.5))
    torch.testing.assert_close(head.bias.data, torch.ones(3))


def test_encoder_and_head_have_separate_learning_rates(encoder, head):
    groups = Optim(encoder_lr=0.1, head_lr=2.0).groups(encoder, head)
    assert {group["name"]: group["lr"] for group in groups} == {
        "encoder": 0.1,
        "encoder.no_decay": 0.1,
        "head": 2.0,
        "head.no_decay": 2.0,
    }


def test_layer_decay_of_a_small_example_worked_by_hand(encoder, head):
    rate = {}
    for group in Optim(encoder_lr=1.0, head_lr=7.0, layer_decay=0.5).groups(encoder, head):
        rate |= dict.fromkeys(map(id, group["params"]), group["lr"])
    parts = [
        (encoder.layers[2], 1),
        (encoder.layers[1], 1 / 2),
        (encoder.layers[0], 1 / 4),
        (encoder.embeddings, 1 / 8),
    ]
    for part, expected in [*parts, (encoder.backbone.pooler, 1), (head, 7)]:
        assert {rate[id(p)] for p in part.parameters()} == {expected}


def test_the_linear_schedule_worked_by_hand(rates):
    assert rates(6, schedule="linear", warmup=2) == pytest.approx([1 / 3, 2 / 3, 1, 3 / 4, 1 / 2, 1 / 4])


def test_the_cosine_schedule_worked_by_hand(rates):
    expected = [1 / 3, 2 / 3, 1, (1 + math.sqrt(1 / 2)) / 2, 1 / 2, (1 - math.sqrt(1 / 2)) / 2]
    assert rates(6, schedule="cosine", warmup=2) == pytest.approx(expected)


def test_the_constant_schedule_worked_by_hand(rates):
    assert rates(5, schedule="constant", warmup=3) == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1, 1])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_without_warmup_the_first_step_is_the_largest(rates, schedule):
    seen = rates(10, schedule=schedule, warmup=0)
    assert seen[0] == 1
    assert all(a > b > 0 for a, b in pairwise(seen))


@pytest.mark.parametrize(("warmup", "steps"), [(0.2, 4), (4, 4), (0.06, 1), (0, 0), (1, 1), (0.99, 20)])
def test_a_warmup_below_1_is_a_fraction_and_from_1_on_a_number_of_steps(rates, warmup, steps):
    seen = rates(20, schedule="constant", warmup=warmup)
    assert sum(factor < 1 for factor in seen) == steps
    assert seen[:steps] == pytest.approx([(step + 1) / (steps + 1) for step in range(steps)])


def test_the_rate_stays_constant_after_the_last_step(encoder, head):
    optimizer, schedule = Optim(schedule="linear").build(encoder, head, 3)
    for _ in range(6):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0


def test_a_warmup_may_be_as_long_as_the_training(rates):
    assert rates(3, schedule="linear", warmup=10) == pytest.approx([1 / 11, 2 / 11, 3 / 11])


def test_betas_may_be_a_list():
    assert Optim(betas=[0.8, 0.99]).betas == (0.8, 0.99)


@pytest.mark.parametrize(
    ("options", "named"), [({"schedule": "step"}, "linear, cosine, constant"), ({"warmup": -1}, "warmup=-1")]
)
def test_invalid_settings_are_refused_in_one_line(options, named):
    with pytest.raises(UserError, match=named) as error:
        Optim(**options)
    assert "\n" not in str(error.value)
