"""Settings without an effect are named; settings with one are not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import OmegaConf, flag_override
from scipy.sparse import csr_matrix

from commandline import ROOT, run, same_weights, setting
from counterpoise.balance import ClassIndex, Strategy
from counterpoise.training.config_types import changed_settings, flatten
from counterpoise.training.ignored_settings import Facts, ignored_settings

COUNTS = [60, 24, 8, 1]
SINGLE = ClassIndex.from_targets(np.repeat(np.arange(4), COUNTS), 4)
MULTI = ClassIndex.from_targets(csr_matrix(np.eye(4, dtype=bool)[np.repeat(np.arange(4), COUNTS)]), 4)
BALANCED = ClassIndex.from_targets(np.repeat(np.arange(4), 5), 4)
OWN = frozenset({"validation", "test"})
FILES = ["data=files", "data.train=a.csv"]


def settings_of(*overrides: str) -> tuple[dict, dict, Strategy]:
    """Return all settings of a run with these overrides, those that are not defaults, and its strategy."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        folders = ["hydra.runtime.output_dir=out", "hydra.job.num=0"]
        config = compose("train", [*overrides, *folders], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        with flag_override(config, ["struct", "readonly"], False):
            del config.hydra
        OmegaConf.resolve(config)
        plain = OmegaConf.to_container(config)
        changed = changed_settings(plain)
    return flatten(plain), changed, replace(instantiate(config.strategy), allow_overcorrection=True)


def found(*overrides: str, index: ClassIndex = SINGLE, own: frozenset = frozenset(), local: bool = False) -> list[str]:
    """Return the keys and strategies that a run with these overrides names."""
    settings, changed, strategy = settings_of(*overrides)
    facts = Facts(index.multi_label, own, local, strategy.correction(list("abcd"), index))
    lines = ignored_settings(changed, settings, facts)
    assert all("\n" not in line and " has no effect: " in line for line in lines)
    return sorted(line.partition(" has no effect")[0].partition("=")[0] for line in lines)


IGNORED: dict[str, tuple[list[str], dict, list[str]]] = {
    "chunks of truncated texts": (
        ["encoder.long_texts=head_tail", "encoder.max_chunks=3", "encoder.chunk_overlap=0.5"],
        {},
        ["encoder.chunk_overlap", "encoder.max_chunks"],
    ),
    "thresholds of single-label data": (
        ["decision.thresholds=global", "decision.top_k=3"],
        {},
        ["decision.thresholds", "decision.top_k"],
    ),
    "anything beside top_k": (
        ["decision.top_k=3", "decision.at_least_one=true", "decision.shrinkage=1"],
        {"index": MULTI},
        ["decision.at_least_one", "decision.shrinkage"],
    ),
    "tuning with a file": (
        ["decision.file=t.json", "decision.objective=precision", "decision.target=0.9"],
        {"index": MULTI},
        ["decision.objective", "decision.target"],
    ),
    "tuning of a number": (
        ["decision.thresholds=0.3", "decision.average=micro"],
        {"index": MULTI},
        ["decision.average"],
    ),
    "shrinkage of one threshold": (
        ["decision.thresholds=global", "decision.shrinkage=1"],
        {"index": MULTI},
        ["decision.shrinkage"],
    ),
    "average of a precision": (
        ["decision.objective=recall", "decision.target=0.9", "decision.average=micro"],
        {"index": MULTI},
        ["decision.average"],
    ),
    "training of a probe's encoder": (
        ["train=probe", "encoder.freeze=embeddings", "encoder.packed=true", "optim.encoder_lr=1e-5"],
        {},
        ["encoder.freeze", "encoder.packed", "optim.encoder_lr"],
    ),
    "training of a frozen encoder": (
        ["encoder.freeze=encoder", "optim.layer_decay=0.9", "encoder.hidden_dropout=0.2"],
        {},
        ["encoder.hidden_dropout", "optim.layer_decay"],
    ),
    "attention dropout of a probe": (
        ["train=probe", "encoder.attention_dropout=0.1"],
        {},
        ["encoder.attention_dropout"],
    ),
    "unfreezing of nothing": (
        ["encoder.unfreeze_at_epoch=1", "trainer.max_epochs=3"],
        {},
        ["encoder.unfreeze_at_epoch"],
    ),
    "unfreezing after the end": (
        ["encoder.freeze=encoder", "encoder.unfreeze_at_epoch=1", "trainer.max_epochs=1"],
        {},
        ["encoder.unfreeze_at_epoch"],
    ),
    "revision of a folder": (["encoder.revision=abc"], {"local": True}, ["encoder.revision"]),
    "fractions of given splits": (
        ["loader.validation_fraction=0.3", "loader.test_fraction=0.3"],
        {"own": OWN},
        ["loader.test_fraction", "loader.validation_fraction"],
    ),
    "fraction of a given test split": (
        ["loader.validation_fraction=0.3", "loader.test_fraction=0.3"],
        {"own": frozenset({"test"})},
        ["loader.test_fraction"],
    ),
    "groups of given splits": ([*FILES, "data.group=author"], {"own": OWN}, ["data.group"]),
    "CSV settings of Parquet": (
        ["data=files", "data.train=a.parquet", 'data.delimiter=";"', "data.skip_rows_after_header=1"],
        {},
        ["data.delimiter", "data.skip_rows_after_header"],
    ),
    "quote of JSON lines": (["data=files", "data.train=a.jsonl.gz", "data.quote=null"], {}, ["data.quote"]),
    "limit of no weights": (["strategy=oversampled", "strategy.max_ratio=5"], {}, ["strategy.max_ratio"]),
    "rebalancing that is off": (
        ["strategy=distribution_balanced", "strategy.loss.rebalance=false", "strategy.loss.mu=0.5"],
        {"index": MULTI},
        ["strategy.loss.mu"],
    ),
    "negative tolerance that is off": (
        ["strategy=distribution_balanced", "strategy.loss.negative_tolerant=false", "strategy.loss.kappa=0.1"],
        {"index": MULTI},
        ["strategy.loss.kappa"],
    ),
    "clipping without a limit": (
        ["trainer.gradient_clip_val=null", "+trainer.gradient_clip_algorithm=value"],
        {},
        ["trainer.gradient_clip_algorithm"],
    ),
    "patience beyond the end": (
        ["callbacks.early_stopping.patience=5", "trainer.max_epochs=6"],
        {},
        ["callbacks.early_stopping.patience"],
    ),
    "patience beyond the end with rare validations": (
        ["callbacks.early_stopping.patience=2", "trainer.max_epochs=6", "+trainer.check_val_every_n_epoch=2"],
        {},
        ["callbacks.early_stopping.patience"],
    ),
    "repeat factors of frequent classes": (["strategy=repeat_factor"], {}, ["strategy.sampler"]),
    "a sampler of balanced classes": (["strategy=oversampled"], {"index": BALANCED}, ["strategy.sampler"]),
    "weights of balanced classes": (["strategy=weighted"], {"index": BALANCED}, ["strategy.weights"]),
    "a schedule of nothing": (
        ["strategy=plain", "strategy/schedule=deferred", "trainer.max_epochs=3"],
        {},
        ["strategy.schedule"],
    ),
    "the label smoothing of plain data": (["strategy.loss.label_smoothing=0.1"], {}, []),
}


@pytest.mark.parametrize("case", IGNORED)
def test_a_setting_without_an_effect_is_named(case):
    overrides, facts, expected = IGNORED[case]
    assert found(*overrides, **facts) == expected


@pytest.mark.parametrize(
    ("overrides", "facts"),
    [
        ([], {}),
        (["decision.thresholds=global", "decision.at_least_one=true"], {"index": MULTI}),
        (["decision.top_k=2"], {"index": MULTI}),
        (["decision.shrinkage=3", "decision.average=micro"], {"index": MULTI}),
        (["decision.objective=precision", "decision.target=0.5", "decision.shrinkage=0"], {"index": MULTI}),
        (["encoder.freeze=2", "optim.encoder_lr=1e-5", "optim.layer_decay=0.9"], {}),
        (
            ["encoder.freeze=encoder", "encoder.unfreeze_at_epoch=1", "trainer.max_epochs=3", "optim.layer_decay=0.9"],
            {},
        ),
        (["encoder=local", "encoder.name=org/name", "encoder.revision=abc"], {}),
        (["loader.validation_fraction=0.3", "loader.test_fraction=0.3"], {}),
        ([*FILES, "data.group=author"], {"own": frozenset({"test"})}),
        ([*FILES, 'data.delimiter=";"', "data.quote=null"], {}),
        (["data=files", "data.train=a.jsonl", "data.test=b.tsv", "data.quote=null"], {}),
        (["strategy=weighted", "strategy.max_ratio=5"], {}),
        (["strategy=repeat_factor", "strategy.sampler.threshold=0.2"], {}),
        (["strategy=distribution_balanced", "strategy.loss.mu=0.5", "strategy.loss.kappa=0.1"], {"index": MULTI}),
        (["strategy=deferred_resampling", "trainer.max_epochs=3"], {}),
        (["train=probe", "optim.head_lr=0.1", "dropout=0.1"], {}),
        (["+trainer.gradient_clip_algorithm=value"], {}),
        (["callbacks.early_stopping.patience=5", "trainer.max_epochs=7"], {}),
        (["callbacks.early_stopping.patience=5", "trainer.max_epochs=2", "trainer.val_check_interval=0.25"], {}),
    ],
    ids=str,
)
def test_a_setting_with_an_effect_is_not_named(overrides, facts):
    assert found(*overrides, **facts) == []


@pytest.mark.parametrize("index", [SINGLE, MULTI], ids=["single label", "multi-label"])
@pytest.mark.parametrize("lost", [[2], [0, 3], [0, 1, 2]])
def test_classes_whose_examples_all_have_weight_0_are_named(index, lost):
    weights = np.where(np.isin(np.repeat(np.arange(4), COUNTS), lost), 0.0, 1.0)
    settings, changed, strategy = settings_of()
    correction = strategy.correction(list("abcd"), replace(index, weights=weights))
    lines = ignored_settings(changed, settings, Facts(index.multi_label, OWN, False, correction))
    assert [f"'{name}' ({COUNTS[c]})" in lines[-1] for c, name in enumerate("abcd")] == [c in lost for c in range(4)]


@pytest.mark.e2e
class TestRuns:
    """What a run names really has no effect."""

    @pytest.fixture
    def tiny(self, texts: dict[str, Path], tiny_encoder: Path) -> list[str]:
        return [*setting(texts, tiny_encoder), "strategy=plain"]

    @pytest.mark.parametrize(
        ("common", "ignored"),
        [
            ([], ["decision.top_k=2", "loader.test_fraction=0.4", "encoder.revision=other"]),
            (["train=probe"], ["optim.encoder_lr=1", "optim.layer_decay=0.5", "encoder.freeze=1"]),
            (["encoder.freeze=encoder"], ["optim.encoder_lr=1", "encoder.hidden_dropout=0.5"]),
        ],
        ids=["decision", "probe", "frozen"],
    )
    def test_weights_are_the_same_with_and_without(self, common, ignored, tiny, tmp_path):
        tiny = [item for item in tiny if not item.startswith("optim.encoder_lr")]
        one = run(tmp_path / "without", *tiny, *common, report=False)
        other = run(tmp_path / "with", *tiny, *common, *ignored, report=False)
        assert one.code == other.code == 0, other.err
        assert "has no effect" not in one.err
        for item in ignored:
            assert f"{item} has no effect" in other.err
        assert one.metrics["test"] == other.metrics["test"]
        if not common:
            assert same_weights(one.last, other.last)
