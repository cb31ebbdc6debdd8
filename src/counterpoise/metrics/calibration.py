"""How far a model's probabilities can be trusted, before and after the prior correction and a temperature.

A model that is trained on rebalanced data says rare classes more often than they come. Its decisions want that; its
probabilities are mended after training: (z - shift) / T, with the shift that the balance law gives in closed form and a
temperature that is fitted on the validation split. Neither changes the model.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, softmax

from counterpoise.balance import Correction
from counterpoise.balance.counts import Targets
from counterpoise.balance.losses.protocol import Loss, PriorCorrection
from counterpoise.balance.prior_correction import natural_prior_shift
from counterpoise.balance.validation import is_number
from counterpoise.errors import UserError
from counterpoise.io import atomic_path
from counterpoise.metrics import probabilities
from counterpoise.metrics.buckets import DEFAULT_BOUNDS, Bounds, buckets
from counterpoise.metrics.class_counts import precision_recall_f1
from counterpoise.metrics.outcomes import Adjusted, Outcomes
from counterpoise.metrics.probabilities import TEMPERATURES, Reliability, RiskCurve

COVERAGES = (50, 80, 90)
"""Percent of the outcomes, the surest, at which the risk is told."""
UNSCALED = {"temperature": "raw", "prior_corrected_temperature": "prior_corrected"}
"""What the variants with a temperature are without it."""
THREADS = 4
"""That measure: one a variant."""


@dataclass(frozen=True)
class Adjustment:
    """(z - shift) / temperature: what turns logits into those of other probabilities. shift: float64 [C]."""

    shift: np.ndarray
    temperature: float = 1.0

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """Returns the adjusted logits, float64 [N, C]."""
        return self.of(logits)[:]

    def of(self, logits: np.ndarray) -> Adjusted:
        """Returns the same, made when they are asked for."""
        return Adjusted(np.asarray(logits), self.shift, self.temperature)


def read_adjustment(path: str | Path, labels: Sequence[str]) -> Adjustment:
    """Returns what `Calibration.save` wrote, the shift in the order of `labels`.

    Raises UserError where the file cannot be read, is of other labels, or holds what is no finite number.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        shift, temperature = content["shift"], content["temperature"]
        values = [shift[label] for label in labels]
        if len(shift) != len(labels):
            raise KeyError(next(name for name in shift if name not in set(labels)))
    except FileNotFoundError:
        raise UserError(f"there is no {path}: the run was not calibrated") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except KeyError as error:
        raise UserError(f"{path} is not of this run's labels, or not complete: {error} does not fit") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is no calibration as a run writes it ({error})") from error
    if not all(is_number(value) and np.isfinite(value) for value in [*values, temperature]) or temperature <= 0:
        raise UserError(f"{path}: the temperature is a number above 0, and the shift of each label a finite number")
    return Adjustment(np.array(values, np.float64), float(temperature))


@dataclass(frozen=True)
class Calibration:
    """What the variants came to.

    variants: the adjustment of each: "raw", "temperature" and, where there is something to correct, "prior_corrected"
    and "prior_corrected_temperature". variant: the one with the least validation NLL, of equals the first.
    summary: what `metrics.json` holds of it:
        prior_correction: "exact", "approximate" or None, as `prior_correction` has it; variant;
        temperatures: by variant, of the two that have one;
        validation, test: by variant nll, brier and ece; of test also adaptive_ece, aurc and the risk_at_50, _80, _90
        percent coverage of the run's decisions, and the scores of those that the variant would take instead (accuracy
        and macro_f1 of the most probable class, multi-label micro_f1 and macro_f1 of the labels above 1/2);
        shares: by bucket, of the test split: the share of texts that are of its classes, multi-label how many of its
        labels a text has, as "observed" and by variant as predicted.
    reliability, risks: of the test split, by variant, from `metrics.probabilities`.
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
        """Writes the chosen adjustment as JSON: temperature, shift by label (what is not used is 1 and 0), variant."""
        content = {
            "variant": self.variant,
            "temperature": self.chosen.temperature,
            "shift": dict(zip(self.labels, self.chosen.shift.tolist(), strict=True)),
        }
        with atomic_path(path) as unfinished:
            unfinished.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


def prior_correction(loss: Loss, correction: Correction) -> tuple[PriorCorrection | None, np.ndarray]:
    """Returns how well the shift back to the natural distribution holds for a model trained so, and the shift.

    "exact" at the optimum, "approximate", or None where no shift leads back, or the loss does not say; the shift,
    float64 [C], is 0 then. Multi-label, a sampler that prefers some texts makes an exact one approximate: labels ride
    along with those that a text is drawn for.
    """
    kind = loss.prior_correction
    if kind is None:
        return None, np.zeros(len(correction.labels))
    if not correction.multi_label:
        return kind, natural_prior_shift(correction, loss.effective_prior(correction))
    alone = len(correction.labels) == 1 or np.ptp(correction.draws_per_row) <= 1e-9 * correction.draws_per_row.max()
    return (kind if alone else "approximate"), natural_prior_shift(correction)


def measure(
    labels: Sequence[str],
    counts: np.ndarray,
    validation: tuple[np.ndarray, Targets],
    test: tuple[np.ndarray, Targets],
    shift_quality: tuple[str | None, np.ndarray],
    bounds: Bounds = DEFAULT_BOUNDS,
    decided: np.ndarray | None = None,
) -> Calibration | None:
    """Returns the calibration of a trained model; None where its logits are not all finite, or a split has no text.

    labels: C names; counts: int [C], their training examples; validation, test: logits float [N, C] and targets, int
    [N] or, multi-label, bool [N, C]; correction: as `prior_correction` returns it; bounds: of head, medium and tail;
    decided: bool [N, C], the labels that the run gives the texts of the test split, those above 1/2 unless told.

    Whatever is done to the probabilities, decisions remain those of the logits as they are: single-label calibration
    errors are of the adjusted probability of the class that they are for, and risks of these decisions.

    A temperature is 1 where the validation split has no mistake to fit it on: the likelihood would have it 0 then,
    and every probability 0 or 1.
    """
    if not all(logits.size and np.isfinite([logits.min(), logits.max()]).all() for logits, _ in (validation, test)):
        return None
    kind, shift = shift_quality
    variants = _variants(*validation, shift)
    logits, targets = test
    multi_label = len(targets.shape) == 2
    classes, of_validation = (None if multi_label else each.argmax(axis=1) for each in (logits, validation[0]))
    if decided is None:
        decided = logits > 0 if multi_label else classes

    def trust(name: str) -> tuple[dict[str, float], dict[str, float], Reliability, np.ndarray]:
        adjusted = variants[name].of(logits)
        tested, bins = _trust(adjusted, targets, classes)
        tested["adaptive_ece"] = probabilities.adaptive_calibration_error(adjusted, targets, decided=classes)
        scores, means = _decisions(adjusted, targets)
        validated, _ = _trust(variants[name].of(validation[0]), validation[1], of_validation)
        return validated, tested | scores, bins, means

    def ranked(name: str) -> RiskCurve:
        return probabilities.risk_coverage(variants[name].of(logits), targets, decided)

    # Dividing by a temperature leaves pairs of text and label in order, and so their risks as they are.
    distinct = [name for name in variants if not (multi_label and name in UNSCALED)]
    # Millions of pairs take seconds, in which numpy lets other threads work.
    with ThreadPoolExecutor(THREADS) as pool:
        waiting, ranking = pool.map(trust, variants), pool.map(ranked, distinct)
        measured, risks = dict(zip(variants, waiting, strict=True)), dict(zip(distinct, ranking, strict=True))
    risks = {name: risks[name if name in risks else UNSCALED[name]] for name in variants}
    validated = {name: scores for name, (scores, *_) in measured.items()}
    tested = {name: scores | _risks(risks[name]) for name, (_, scores, *_) in measured.items()}
    means, observed = {name: each for name, (*_, each) in measured.items()}, _counts(targets, len(labels)) / len(logits)
    chosen = min(variants, key=lambda name: validated[name]["nll"])
    summary = {
        "prior_correction": kind,
        "variant": chosen,
        "temperatures": {name: variants[name].temperature for name in variants if name in UNSCALED},
        "validation": validated,
        "test": tested,
        "shares": _shares({"observed": observed} | means, buckets(counts, *bounds)),
    }
    bins = {name: each for name, (_, _, each, _) in measured.items()}
    return Calibration(list(labels), variants, chosen, summary, bins, risks)


def _variants(logits: np.ndarray, targets: Targets, shift: np.ndarray) -> dict[str, Adjustment]:
    """Returns the adjustments by name; temperatures are fitted on these logits and targets."""
    nothing = np.zeros(logits.shape[1])
    shifts = {"": nothing}
    # Of one class only differences between classes matter, and rounding is no correction.
    if (np.ptp(shift) if len(targets.shape) == 1 else np.abs(shift).max()) > 1e-6:
        shifts["prior_corrected"] = shift
    with ThreadPoolExecutor(THREADS) as pool:
        fitted = pool.map(lambda each: _temperature(Adjusted(logits, each), targets), shifts.values())
    variants = {}
    for (name, each), temperature in zip(shifts.items(), fitted, strict=True):
        variants[name or "raw"] = Adjustment(each)
        variants[f"{name}_temperature".strip("_")] = Adjustment(each, temperature)
    return variants


def _temperature(logits: Adjusted, targets: Targets) -> float:
    """Returns the fitted temperature, 1 where no mistake bounds it from below."""
    found = probabilities.fit_temperature(logits, targets)
    return 1.0 if found == TEMPERATURES[0] else found


def _trust(logits: Adjusted, targets: Targets, decided: np.ndarray | None) -> tuple[dict[str, float], Reliability]:
    """Returns what both splits are measured by, and the bins of the ECE."""
    bins = probabilities.reliability(logits, targets, decided=decided)
    return {
        "nll": probabilities.negative_log_likelihood(logits, targets),
        "brier": probabilities.brier_score(logits, targets),
        "ece": bins.error,
    }, bins


def _decisions(logits: Adjusted, targets: Targets) -> tuple[dict[str, float], np.ndarray]:
    """Returns the scores of the most probable class, multi-label of the labels above 1/2, with means as in `metrics`,
    and how many of each class a text has on average, as predicted, float64 [C].
    """
    texts, classes = logits.shape
    outcomes, expected, (true_positives, called) = (
        Outcomes.of(logits, targets),
        np.zeros(classes),
        np.zeros((2, classes), int),
    )
    for scores, truth in outcomes.blocks():
        if outcomes.pairs:
            decided = scores > 0
            true_positives += (decided & truth).sum(axis=0)
            called += decided.sum(axis=0)
            expected += expit(scores).sum(axis=0)
        else:
            predicted = scores.argmax(axis=1)
            true_positives += np.bincount(truth[truth == predicted], minlength=classes)
            called += np.bincount(predicted, minlength=classes)
            expected += softmax(scores, axis=1).sum(axis=0)
    support = _counts(targets, classes)
    if outcomes.pairs:
        overall = {"micro_f1": float(2 * true_positives.sum() / max(support.sum() + called.sum(), 1))}
    else:
        overall = {"accuracy": float(true_positives.sum() / texts)}
    by_class = precision_recall_f1(true_positives, support, called)[2]
    macro = float(by_class[support > 0].mean()) if support.any() else float("nan")
    return overall | {"macro_f1": macro}, expected / texts


def _risks(curve: RiskCurve) -> dict[str, float]:
    """Returns the area under the curve and its value where so many percent are covered, or just more."""
    at = {f"risk_at_{percent}": float(curve.risk(np.array(-(-curve.total * percent // 100)))) for percent in COVERAGES}
    return {"aurc": curve.area} | at


def _counts(targets: Targets, classes: int) -> np.ndarray:
    """Returns how many texts have each class, int64 [C]."""
    if len(targets.shape) == 1:
        return np.bincount(targets, minlength=classes)
    return np.asarray(targets.sum(axis=0), np.int64).ravel()


def _shares(by_class: dict[str, np.ndarray], bucket_of_class: np.ndarray) -> dict[str, dict[str, float]]:
    """Returns by bucket, where it has classes, how many of them a text has on average, by name."""
    return {
        bucket: {name: float(means[bucket_of_class == bucket].sum()) for name, means in by_class.items()}
        for bucket in ("head", "medium", "tail")
        if (bucket_of_class == bucket).any()
    }
