"""Calibration of a trained model: prior correction, temperature, and the reliability of the probabilities.

A model that is trained on rebalanced data predicts rare classes more often than they occur. Its decisions rely on
that. Its probabilities are corrected after training, as (z - shift) / T: the shift follows from the effective prior in
closed form, and the temperature T is fitted on the validation split. Whether they are used is decided by
cross-validation within that split, so that a temperature is not judged on the texts that it was fitted on. Neither
changes the model.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, softmax

from counterpoise.balance import Correction
from counterpoise.balance.counts import Targets
from counterpoise.balance.losses.protocol import Loss, PriorCorrection
from counterpoise.balance.prior_correction import natural_prior_shift
from counterpoise.io import atomic_path
from counterpoise.metrics import probabilities
from counterpoise.metrics.adjustment import Adjustment
from counterpoise.metrics.averages import BUCKETS, class_mean
from counterpoise.metrics.buckets import DEFAULT_BOUNDS, Bounds, buckets
from counterpoise.metrics.class_counts import precision_recall_f1
from counterpoise.metrics.outcomes import AdjustedLogits, ScoredOutcomes
from counterpoise.metrics.probabilities import Reliability, RiskCurve
from counterpoise.metrics.temperature import cross_validated_nll, num_folds, temperature

COVERAGES = (50, 80, 90)
"""Percentages of the most confident outcomes for which the risk is reported."""
WITHOUT_TEMPERATURE = {"temperature": "raw", "prior_corrected_temperature": "prior_corrected"}
"""The variant that each variant with a temperature is based on."""
THREADS = 4
"""Threads that measure variants: one per variant."""


class PriorShift(NamedTuple):
    """The shift from the training distribution back to the natural one.

    Args:
        kind: "exact" if the shift is exact at the optimum of the loss, "approximate", or None if no shift exists.
        shift: What to subtract from the logits, float64 [C]; zeros if `kind` is None.
    """

    kind: PriorCorrection | None
    shift: np.ndarray


def prior_correction(loss: Loss, correction: Correction) -> PriorShift:
    """Return the prior correction of a model that is trained with a loss under a correction.

    Instance weights that differ within a class make an exact correction approximate, because they change the
    distribution within the class. So does a multi-label sampler that prefers some texts, because co-occurring labels
    are drawn together.

    Args:
        loss: The loss of the epoch that the model stands for.
        correction: The correction of that epoch.
    """
    kind = loss.prior_correction
    if kind is None:
        return PriorShift(None, np.zeros(len(correction.labels)))
    index = correction.index
    if correction.multi_label:
        influence = correction.draws_per_row if index.weights is None else correction.draws_per_row * index.weights
        exact = _constant(influence) or (len(correction.labels) == 1 and index.weights is None)
        shift = natural_prior_shift(correction)
    else:
        weights, classes = index.weights, range(len(index.counts))
        exact = weights is None or all(_constant(weights[index.members(c)]) for c in classes)
        shift = natural_prior_shift(correction, loss.effective_prior(correction))
    return PriorShift(kind if exact else "approximate", shift)


def _constant(values: np.ndarray) -> bool:
    return not len(values) or bool(np.ptp(values) <= 1e-9 * values.max())


@dataclass(frozen=True)
class Calibration:
    """Calibration variants of a model and their quality.

    Args:
        labels: Names of the C classes or labels.
        variants: Adjustment of each variant: "raw", "temperature" and, if there is a shift to correct,
            "prior_corrected" and "prior_corrected_temperature".
        variant: The variant with the lowest NLL in a cross-validation on the validation split; the first of equals.
        summary: The part of metrics.json:

            - prior_correction: `PriorShift.kind`; variant;
            - cross_validation: folds, and `nll` by variant, with temperatures fitted on the other folds;
            - temperatures: by variant, of those that have one;
            - validation, test: by variant `nll`, `brier` and `ece`. Test also has `adaptive_ece`, `aurc`, the risk of
              the run's decisions at 50, 80 and 90 percent coverage (`risk_at_50` ...), and the scores of the decisions
              that the variant would make: `accuracy` and `macro_f1` of the most probable class; multi-label:
              `micro_f1` and `macro_f1` of the labels above 1/2;
            - shares: by bucket, the fraction of test texts of its classes (multi-label: mean number of its labels per
              text), "observed" and as predicted by each variant.
        reliability: Reliability of the test split by variant.
        risks: Risk-coverage curve of the test split by variant.
    """

    labels: list[str]
    variants: dict[str, Adjustment]
    variant: str
    summary: dict[str, Any]
    reliability: dict[str, Reliability]
    risks: dict[str, RiskCurve]

    @property
    def chosen(self) -> Adjustment:
        """The adjustment of the chosen variant."""
        return self.variants[self.variant]

    def save(self, path: str | Path) -> None:
        """Write the chosen adjustment as JSON: variant, temperature and the shift of each label."""
        content = {
            "variant": self.variant,
            "temperature": self.chosen.temperature,
            "shift": dict(zip(self.labels, self.chosen.shift.tolist(), strict=True)),
        }
        with atomic_path(path) as unfinished:
            unfinished.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


def measure(
    labels: Sequence[str],
    counts: np.ndarray,
    validation: tuple[np.ndarray, Targets],
    test: tuple[np.ndarray, Targets],
    prior: PriorShift,
    bounds: Bounds = DEFAULT_BOUNDS,
    decided: np.ndarray | None = None,
) -> Calibration | None:
    """Fit the calibration variants on the validation split and measure them on both splits.

    Decisions remain those of the uncalibrated logits: single-label calibration errors are of the adjusted probability
    of the class that the run predicts, and risks are of these decisions.

    Temperatures are fitted on the whole validation split, after a cross-validation has chosen the variant. The
    temperature is 1 if the validation split has no mistake: the likelihood would be best at 0, with every
    probability 0 or 1.

    Args:
        labels: Names of the C classes or labels.
        counts: Training examples of each class, int [C].
        validation: Logits, float [N, C], and targets, int [N] or bool [N, C].
        test: The same of the test split.
        prior: What `prior_correction` returns.
        bounds: Bounds of head, medium and tail.
        decided: The run's decisions on the test split, int [N] or bool [N, C]. Defaults to the most probable class, or
            the labels above 1/2.

    Returns:
        The calibration; None if a logit is not finite or a split has no text.
    """
    if not all(logits.size and np.isfinite([logits.min(), logits.max()]).all() for logits, _ in (validation, test)):
        return None
    variants = _variants(*validation, prior.shift)
    logits, targets = test
    multi_label = len(targets.shape) == 2
    classes, validation_classes = (None if multi_label else each.argmax(axis=1) for each in (logits, validation[0]))
    if decided is None:
        decided = logits > 0 if multi_label else classes

    def scored(name: str) -> tuple[dict[str, float], dict[str, float], Reliability, np.ndarray]:
        adjusted = variants[name].lazy(logits)
        test_scores, bins = _calibration_scores(adjusted, targets, classes)
        test_scores["adaptive_ece"] = probabilities.adaptive_calibration_error(adjusted, targets, decided=classes)
        decision_scores, means = _decision_scores(adjusted, targets)
        validation_scores, _ = _calibration_scores(
            variants[name].lazy(validation[0]), validation[1], validation_classes
        )
        return validation_scores, test_scores | decision_scores, bins, means

    def risk_curve(name: str) -> RiskCurve:
        return probabilities.risk_coverage(variants[name].lazy(logits), targets, decided)

    # A temperature keeps the order of multi-label pairs, and so their risk-coverage curve.
    distinct = [name for name in variants if not (multi_label and name in WITHOUT_TEMPERATURE)]
    # Millions of pairs take seconds, during which numpy releases the GIL.
    with ThreadPoolExecutor(THREADS) as pool:
        pending_scores, pending_curves = pool.map(scored, variants), pool.map(risk_curve, distinct)
        fitted = [name for name in variants if name in WITHOUT_TEMPERATURE]
        pending_nll = pool.map(lambda name: cross_validated_nll(*validation, variants[name].shift), fitted)
        measured = dict(zip(variants, pending_scores, strict=True))
        curves = dict(zip(distinct, pending_curves, strict=True))
        held_out_nll = dict(zip(fitted, pending_nll, strict=True))
    curves = {name: curves[name if name in curves else WITHOUT_TEMPERATURE[name]] for name in variants}
    validation_scores = {name: scores for name, (scores, *_) in measured.items()}
    test_scores = {name: scores | _risks(curves[name]) for name, (_, scores, *_) in measured.items()}
    means = {"observed": _counts(targets, len(labels)) / len(logits)}
    means |= {name: predicted for name, (*_, predicted) in measured.items()}
    # A variant without a temperature has nothing to fit: its NLL is the same in every fold.
    compared = {name: held_out_nll.get(name, validation_scores[name]["nll"]) for name in variants}
    chosen = min(compared, key=lambda name: compared[name])
    summary = {
        "prior_correction": prior.kind,
        "variant": chosen,
        "cross_validation": {
            "folds": num_folds(validation[0]),
            "nll": {name: nll if np.isfinite(nll) else None for name, nll in compared.items()},
        },
        "temperatures": {name: variants[name].temperature for name in variants if name in WITHOUT_TEMPERATURE},
        "validation": validation_scores,
        "test": test_scores,
        "shares": _shares(means, buckets(counts, *bounds)),
    }
    bins = {name: each for name, (_, _, each, _) in measured.items()}
    return Calibration(list(labels), variants, chosen, summary, bins, curves)


def _variants(logits: np.ndarray, targets: Targets, shift: np.ndarray) -> dict[str, Adjustment]:
    """Return the adjustments by name, with temperatures fitted on these logits and targets."""
    shifts = {"": np.zeros(logits.shape[1])}
    # Only differences between classes matter to single-label data, and rounding is no correction.
    if (np.ptp(shift) if len(targets.shape) == 1 else np.abs(shift).max()) > 1e-6:
        shifts["prior_corrected"] = shift
    with ThreadPoolExecutor(THREADS) as pool:
        fitted = pool.map(lambda each: temperature(AdjustedLogits(logits, each), targets), shifts.values())
    variants = {}
    for (name, each), found in zip(shifts.items(), fitted, strict=True):
        variants[name or "raw"] = Adjustment(each)
        variants[f"{name}_temperature".strip("_")] = Adjustment(each, found)
    return variants


def _calibration_scores(
    logits: AdjustedLogits, targets: Targets, decided: np.ndarray | None
) -> tuple[dict[str, float], Reliability]:
    """Return the scores of either split, and the bins of the ECE."""
    bins = probabilities.reliability(logits, targets, decided=decided)
    return {
        "nll": probabilities.negative_log_likelihood(logits, targets),
        "brier": probabilities.brier_score(logits, targets),
        "ece": bins.error,
    }, bins


def _decision_scores(logits: AdjustedLogits, targets: Targets) -> tuple[dict[str, float], np.ndarray]:
    """Return the scores of the most probable class (multi-label: of the labels above 1/2) and the predicted means.

    The means are the expected number of examples of each class per text, float64 [C].
    """
    texts, classes = logits.shape
    outcomes, expected = ScoredOutcomes.of(logits, targets), np.zeros(classes)
    true_positives, predicted = np.zeros((2, classes), int)
    for scores, truth in outcomes.blocks():
        if outcomes.pairs:
            decided = scores > 0
            true_positives += (decided & truth).sum(axis=0)
            predicted += decided.sum(axis=0)
            expected += expit(scores).sum(axis=0)
        else:
            decided = scores.argmax(axis=1)
            true_positives += np.bincount(truth[truth == decided], minlength=classes)
            predicted += np.bincount(decided, minlength=classes)
            expected += softmax(scores, axis=1).sum(axis=0)
    support = _counts(targets, classes)
    if outcomes.pairs:
        overall = {"micro_f1": float(2 * true_positives.sum() / max(support.sum() + predicted.sum(), 1))}
    else:
        overall = {"accuracy": float(true_positives.sum() / texts)}
    f1 = precision_recall_f1(true_positives, support, predicted)[2]
    return overall | {"macro_f1": float(class_mean(f1[support > 0]))}, expected / texts


def _risks(curve: RiskCurve) -> dict[str, float]:
    """Return the area under the curve and the risk at the coverages, rounded up to whole outcomes."""
    at = {f"risk_at_{percent}": float(curve.risk(np.array(-(-curve.total * percent // 100)))) for percent in COVERAGES}
    return {"aurc": curve.area} | at


def _counts(targets: Targets, classes: int) -> np.ndarray:
    """Return the number of texts of each class, int64 [C]."""
    if len(targets.shape) == 1:
        return np.bincount(targets, minlength=classes)
    return np.asarray(targets.sum(axis=0), np.int64).ravel()


def _shares(means: dict[str, np.ndarray], bucket_of_class: np.ndarray) -> dict[str, dict[str, float]]:
    """Return the sums of means [C] over the classes of each bucket that has any, by bucket and name."""
    return {
        bucket: {name: float(each[bucket_of_class == bucket].sum()) for name, each in means.items()}
        for bucket in BUCKETS
        if (bucket_of_class == bucket).any()
    }
