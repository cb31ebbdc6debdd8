"""The project's own parts."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from counterpoise.balance import ClassIndex, Correction, Strategy

ROOT = Path(__file__).parent.parent


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> DictConfig:
    monkeypatch.chdir(ROOT)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("mytask")


def test_the_source_reads_texts_and_classes(config):
    split = instantiate(config.data).load()["train"]
    assert len(split) == len(split.labels) > 0
    assert split.task == "single_label"


def test_the_head_maps_vectors_to_logits(config):
    head = instantiate(config.head)(8, 3)
    assert head(torch.randn(4, 8)).shape == (4, 3)


def test_the_loss_without_its_term_is_cross_entropy(config):
    index = ClassIndex.from_targets(torch.tensor([0, 0, 1, 2]).numpy(), 3)
    correction: Correction = Strategy().fit(["a", "b", "c"], index, 1).final.correction
    logits, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    loss = instantiate(config.strategy.loss, epsilon=0.0)(correction)
    torch.testing.assert_close(loss(logits, targets), torch.nn.functional.cross_entropy(logits, targets))
