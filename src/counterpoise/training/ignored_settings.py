"""Settings that have no effect in combination with others. A run names each of them before training."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from counterpoise.balance import Correction, FittedStrategy
from counterpoise.data.datamodule import TextDataModule
from counterpoise.data.readers import suffix_of
from counterpoise.data.readers.csv_structure import DELIMITERS
from counterpoise.training.config_types import changed_settings
from counterpoise.training.run import RunContext

log = logging.getLogger(__name__)

SHOWN_CLASSES = 5
"""Classes that a warning names."""
Settings = Mapping[str, Any]
"""Resolved configuration by dotted key."""


@dataclass(frozen=True)
class Facts:
    """What decides, besides the configuration, whether a setting has an effect.

    Args:
        multi_label: Whether a text can have several labels.
        own_splits: Splits that the source provides, so that they are not split off the training data.
        local_encoder: Whether the encoder is a local folder or part of a wheel.
        correction: The full correction of the strategy.
    """

    multi_label: bool
    own_splits: frozenset[str]
    local_encoder: bool
    correction: Correction


@dataclass(frozen=True)
class Rule:
    """Settings that have no effect under a condition.

    Args:
        keys: Patterns of dotted keys. A setting is named only if its value differs from the default.
        when: The condition.
        reason: Why they have no effect, for the warning.
    """

    keys: Sequence[str]
    when: Callable[[Settings, Facts], bool]
    reason: str


def warn_of_ignored_settings(run: RunContext, data: TextDataModule, fitted: FittedStrategy) -> None:
    """Warn of each changed setting without an effect, and of a strategy that corrects nothing.

    Args:
        run: The run's context.
        data: The data after `setup`.
        fitted: The fitted strategy.
    """
    train = data.splits["train"].split
    config = run.config
    facts = Facts(
        multi_label=fitted.final.correction.multi_label,
        own_splits=frozenset(name for name, part in data.splits.items() if part.split is not train),
        local_encoder=bool(config.encoder.get("download")) or Path(str(config.encoder.name)).expanduser().is_dir(),
        correction=fitted.final.correction,
    )
    for line in ignored_settings(changed_settings(run.resolved_config), run.flat_config, facts):
        log.warning("%s", line)


def ignored_settings(changed: Settings, settings: Settings, facts: Facts) -> list[str]:
    """Return one line for each setting without an effect.

    Args:
        changed: Settings whose value differs from the default.
        settings: All settings.
        facts: What else decides.
    """
    lines = [
        f"{key}={_shown(value)} has no effect: {rule.reason}"
        for rule in RULES
        if rule.when(settings, facts)
        for key, value in changed.items()
        if any(fnmatchcase(key, pattern) for pattern in rule.keys)
    ]
    return [*lines, *_ineffective_strategy(settings, facts), *_classes_without_weight(facts.correction)]


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _ineffective_strategy(settings: Settings, facts: Facts) -> list[str]:
    """Return a line for a sampler, weights or a schedule that leaves the classes as they are."""
    lines = []
    if _has_sampler(settings) and _natural_sampling(facts):
        lines.append("strategy.sampler has no effect: it draws each class as often as it occurs in this training data")
    if _has_weights(settings) and _equal_weights(facts):
        lines.append("strategy.weights has no effect: all weights are equal for these class counts")
    scheduled = any(key.startswith("strategy.schedule.") for key in settings)
    if scheduled and _natural_sampling(facts) and _equal_weights(facts):
        lines.append("strategy.schedule has no effect: neither the sampler nor the class weights correct anything")
    return lines


def _classes_without_weight(correction: Correction) -> list[str]:
    """Return a line for the classes whose training examples all have weight 0 or are never drawn."""
    without = np.flatnonzero((correction.counts > 0) & (correction.effective_prior == 0))
    if not len(without):
        return []
    names = ", ".join(f"'{correction.labels[c]}' ({correction.counts[c]:,})" for c in without[:SHOWN_CLASSES])
    more = f" and {len(without) - SHOWN_CLASSES} more" if len(without) > SHOWN_CLASSES else ""
    return [
        f"training on {names}{more} has no effect: these examples have weight 0 or are never drawn (data.weight, "
        "strategy.weights, strategy.sampler)"
    ]


def _has_sampler(settings: Settings) -> bool:
    return not str(settings.get("strategy.sampler._target_")).endswith("PowerSampler") or bool(
        settings.get("strategy.sampler.alpha")
    )


def _has_weights(settings: Settings) -> bool:
    return settings.get("strategy.weights.beta") != 0


def _natural_sampling(facts: Facts) -> bool:
    correction = facts.correction
    natural = correction.counts / correction.num_rows
    return bool(np.allclose(correction.sampling_probs, natural, rtol=1e-6))


def _equal_weights(facts: Facts) -> bool:
    ratios = facts.correction.class_weights / facts.correction.negative_weights
    return bool(np.allclose(ratios, 1 if facts.multi_label else ratios[0], rtol=1e-6))


def _probe(settings: Settings, facts: Facts) -> bool:
    return bool(settings["probe"])


def _always_frozen(settings: Settings, facts: Facts) -> bool:
    frozen = settings["encoder.freeze"] == "encoder" and settings["encoder.unfreeze_at_epoch"] is None
    return frozen or bool(settings["probe"])


def _single_label(settings: Settings, facts: Facts) -> bool:
    return not facts.multi_label


def _top_k(settings: Settings, facts: Facts) -> bool:
    return facts.multi_label and settings["decision.top_k"] is not None


def _threshold_file(settings: Settings, facts: Facts) -> bool:
    return facts.multi_label and not _top_k(settings, facts) and settings["decision.file"] is not None


def _fixed_threshold(settings: Settings, facts: Facts) -> bool:
    given = settings["decision.file"] is not None or settings["decision.top_k"] is not None
    return facts.multi_label and not given and not isinstance(settings["decision.thresholds"], str)


def _tuned(settings: Settings, facts: Facts) -> bool:
    others = (_top_k, _threshold_file, _fixed_threshold)
    return facts.multi_label and not any(other(settings, facts) for other in others)


def _no_csv_file(settings: Settings, facts: Facts) -> bool:
    files = [settings.get(f"data.{name}") for name in ("train", "validation", "test")]
    return settings.get("data.train") is not None and not any(
        suffix_of(Path(str(file))) in DELIMITERS for file in files if file
    )


def _never_stops_early(settings: Settings, facts: Facts) -> bool:
    """Return whether the last validation comes before early stopping can have an effect."""
    epochs, patience = settings.get("trainer.max_epochs"), settings.get("callbacks.early_stopping.patience")
    every = settings.get("trainer.check_val_every_n_epoch") or 1
    once = settings.get("trainer.val_check_interval") == 1.0  # a validation at the end of each epoch
    return once and isinstance(epochs, int) and isinstance(patience, int) and 0 < epochs // every <= patience + 1


def _own(*names: str) -> Callable[[Settings, Facts], bool]:
    return lambda settings, facts: facts.own_splits.issuperset(names)


RULES = (
    Rule(["decision.*"], _single_label, "single-label data has no thresholds; the most probable class is predicted"),
    Rule(
        [f"decision.{name}" for name in ("thresholds", "objective", "target", "average", "shrinkage", "file")]
        + ["decision.at_least_one"],
        _top_k,
        "decision.top_k predicts without thresholds",
    ),
    Rule(
        [f"decision.{name}" for name in ("thresholds", "objective", "target", "average", "shrinkage")],
        _threshold_file,
        "decision.file holds the thresholds, and nothing is tuned",
    ),
    Rule(
        [f"decision.{name}" for name in ("objective", "target", "average", "shrinkage")],
        _fixed_threshold,
        "decision.thresholds is a number, and nothing is tuned",
    ),
    Rule(
        ["decision.shrinkage"],
        lambda settings, facts: _tuned(settings, facts) and settings["decision.thresholds"] == "global",
        "decision.thresholds=global tunes a single threshold",
    ),
    Rule(
        ["decision.average"],
        lambda settings, facts: _tuned(settings, facts) and settings["decision.objective"] != "f1",
        "decision.average is for decision.objective=f1",
    ),
    Rule(
        ["encoder.freeze", "encoder.packed"],
        _probe,
        "the encoder of a linear probe is frozen and encodes each text once; use train=finetune",
    ),
    Rule(
        ["encoder.chunk_overlap", "encoder.chunk_pooling", "encoder.max_chunks"],
        lambda settings, facts: settings.get("encoder.long_texts") != "chunk",
        "long texts are read in chunks with encoder.long_texts=chunk only",
    ),
    Rule(
        ["optim.encoder_lr", "optim.layer_decay", "encoder.hidden_dropout", "encoder.attention_dropout"],
        _always_frozen,
        "the encoder is frozen and has neither a learning rate nor dropout",
    ),
    Rule(
        ["encoder.unfreeze_at_epoch"],
        lambda settings, facts: settings["encoder.freeze"] == "none",
        "encoder.freeze=none freezes nothing",
    ),
    Rule(
        ["encoder.unfreeze_at_epoch"],
        lambda settings, facts: (
            settings["encoder.unfreeze_at_epoch"] is not None
            and isinstance(settings["trainer.max_epochs"], int)
            and 0 <= settings["trainer.max_epochs"] <= settings["encoder.unfreeze_at_epoch"]
        ),
        "training ends before (trainer.max_epochs; epochs start at 0)",
    ),
    Rule(
        ["encoder.revision"],
        lambda settings, facts: facts.local_encoder,
        "the encoder is a local folder, which has no revisions",
    ),
    Rule(["loader.validation_fraction"], _own("validation"), "the data has a validation split of its own"),
    Rule(
        ["loader.validation_fraction"],
        lambda settings, facts: settings.get("loader.folds") is not None,
        "loader.folds divides the training data instead",
    ),
    Rule(["loader.test_fraction"], _own("test"), "the data has a test split of its own"),
    Rule(
        ["data.group"],
        _own("validation", "test"),
        "groups keep texts together when a split is made, and the data has all splits",
    ),
    Rule(
        ["data.delimiter", "data.quote", "data.escape", "data.skip_rows_after_header", "data.columns"],
        _no_csv_file,
        "it is for CSV files, and none is read",
    ),
    Rule(
        ["strategy.max_ratio"],
        lambda settings, facts: not _has_weights(settings),
        "there are no class weights to limit (strategy/weights=none)",
    ),
    Rule(
        ["strategy.loss.alpha", "strategy.loss.beta", "strategy.loss.mu"],
        lambda settings, facts: settings.get("strategy.loss.rebalance") is False,
        "it belongs to rebalancing, and strategy.loss.rebalance=false",
    ),
    Rule(
        ["strategy.loss.kappa", "strategy.loss.scale"],
        lambda settings, facts: settings.get("strategy.loss.negative_tolerant") is False,
        "it belongs to the negative-tolerant term, and strategy.loss.negative_tolerant=false",
    ),
    Rule(
        ["callbacks.early_stopping.patience"],
        _never_stops_early,
        "it is not reached before the last validation (trainer.max_epochs)",
    ),
    Rule(
        ["trainer.gradient_clip_algorithm"],
        lambda settings, facts: not settings.get("trainer.gradient_clip_val"),
        "trainer.gradient_clip_val sets no limit",
    ),
)
"""Conditions under which settings have no effect. A combination that nobody can want is refused where it is read."""
