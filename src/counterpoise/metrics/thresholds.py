"""Decisions of multi-label data: thresholds tuned on the validation split, top-k, at least one label."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import expit, logit

from counterpoise.balance.validation import is_number
from counterpoise.errors import UserError, nearest

OBJECTIVES = ("f1", "precision", "recall")
AVERAGES = ("macro", "micro")
CANDIDATES = 1000
"""Global thresholds that tuning tries for the macro average."""
# Logits whose probabilities are above 0 and below 1 in double precision.
LOWEST, HIGHEST = -700.0, 36.0
# Logits per block of texts, and per block of labels where they are sorted.
_BLOCK_CELLS = 2**18
_SORTED_CELLS = 2**22


@dataclass(frozen=True)
class Decision:
    """The rule that turns logits into labels: a text gets the labels whose probability exceeds their threshold.

    Args:
        thresholds: "label" tunes one threshold per label, "global" one for all; a number is a fixed probability.
        objective: What tuning maximises. "f1": F1. "precision": recall, at a precision of at least `target`; the
            highest precision if no threshold reaches it. "recall": precision, at a recall of at least `target`. Ties
            go to the higher recall.
        target: The precision or recall to reach; only with these objectives.
        average: Average of the F1 that the global threshold is tuned for: "macro", over labels with positives, or
            "micro", over all pairs of text and label, which large labels dominate. Precision and recall are micro.
        shrinkage: k in (m t + k t_global) / (m + k), in logits: the threshold t of a label with m validation positives
            is pulled towards the global one, because thresholds tuned on a few positives overfit.
        top_k: Predict exactly the k most probable labels instead, without thresholds. Ties go to the first.
        at_least_one: Give a text with no label above its threshold the label whose logit is nearest to it.
        file: JSON file of thresholds by label name, see `read_thresholds`; nothing is tuned then.

    Raises:
        UserError: A setting is out of range.
    """

    thresholds: str | float = "label"
    objective: str = "f1"
    target: float | None = None
    average: str = "macro"
    shrinkage: float = 10.0
    top_k: int | None = None
    at_least_one: bool = False
    file: str | None = None

    def __post_init__(self) -> None:
        fixed = is_number(self.thresholds)
        if self.thresholds not in ("label", "global") and not (fixed and 0 < float(self.thresholds) < 1):
            raise UserError(
                f"decision.thresholds={self.thresholds}: use label, global or a probability between 0 and 1"
            )
        if self.objective not in OBJECTIVES:
            raise UserError(f"decision.objective={self.objective}: use {', '.join(OBJECTIVES)}")
        if self.average not in AVERAGES:
            raise UserError(f"decision.average={self.average}: use {' or '.join(AVERAGES)}")
        if self.objective == "f1" and self.target is not None:
            raise UserError(
                f"decision.target={self.target} has no effect with decision.objective=f1: use precision or recall"
            )
        if self.objective != "f1" and not (is_number(self.target) and 0 < float(self.target or 0) <= 1):
            raise UserError(
                f"decision.target={self.target}: decision.objective={self.objective} needs the {self.objective} to "
                "reach. Use a number above 0 and up to 1."
            )
        if not (is_number(self.shrinkage) and 0 <= self.shrinkage < float("inf")):
            raise UserError(f"decision.shrinkage={self.shrinkage}: use 0 or more (a number of positives)")
        if self.top_k is not None and not (is_number(self.top_k) and self.top_k == int(self.top_k) >= 1):
            raise UserError(f"decision.top_k={self.top_k}: use null or an integer of at least 1")

    @property
    def tunes(self) -> bool:
        """Whether thresholds are tuned, rather than given or not used."""
        return isinstance(self.thresholds, str) and self.file is None and self.top_k is None

    def initial(self, labels: Sequence[str]) -> np.ndarray:
        """Return the thresholds before tuning, float64 [C]: the given ones, otherwise 1/2."""
        if self.file is not None:
            return read_thresholds(self.file, labels)
        return np.full(len(labels), 0.5 if isinstance(self.thresholds, str) else float(self.thresholds))

    def fit(self, logits: np.ndarray, targets: csr_matrix) -> np.ndarray:
        """Tune the thresholds.

        A threshold lies halfway, in logits, between two different scores, so that it never separates ties. Labels
        without positives get the global threshold, which is 1/2 if no label has any. NaN counts as the lowest logit.

        Args:
            logits: Validation logits, float [N, C].
            targets: Validation targets, bool csr [N, C].

        Returns:
            Probabilities between 0 and 1, float64 [C].
        """
        if not isinstance(self.thresholds, str):
            return np.full(targets.shape[1], float(self.thresholds))
        logits, by_label = np.asarray(logits), targets.tocsc()
        counts = np.diff(by_label.indptr)
        columns = np.repeat(np.arange(len(counts)), counts)
        # Label by label, ascending within each.
        positives = _clipped(logits[by_label.indices, columns])
        positives = positives[np.lexsort((positives, columns))]
        macro = self.objective == "f1" and self.average == "macro"
        tried = _candidate_thresholds(positives) if macro else None
        means, own_thresholds = np.zeros(0 if tried is None else len(tried)), np.zeros(len(counts))
        for labels, ranked in _sorted_labels(logits) if macro or self.thresholds == "label" else ():
            for c, scores in zip(labels, ranked, strict=True):
                own = positives[by_label.indptr[c] : by_label.indptr[c + 1]]
                if len(own) and tried is not None:
                    predicted, true_positives = (len(each) - each.searchsorted(tried) for each in (scores, own))
                    means += 2 * true_positives / (predicted + len(own))
                if len(own) and self.thresholds == "label":
                    own_thresholds[c] = self._best_threshold(scores, own)
        if tried is None:
            shared = self._best_threshold(np.sort(_clipped(logits), axis=None), positives)
        else:
            shared = _threshold_below(logits, float(tried[means.argmax()])) if len(tried) else 0.0
        m = counts if self.thresholds == "label" else 0
        # A label without positives has no threshold of its own, with or without shrinkage.
        pull = np.where(m > 0, self.shrinkage, 1.0)
        return expit((m * own_thresholds + pull * shared) / (m + pull))

    def decide(self, logits: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
        """Decide which labels each text gets.

        Args:
            logits: Float [N, C].
            thresholds: Probabilities, float [C].

        Returns:
            Bool [N, C].
        """
        logits = np.asarray(logits)
        decided = np.zeros(logits.shape, bool)
        step = max(1, _BLOCK_CELLS // max(logits.shape[1], 1))
        for start in range(0, len(logits), step):
            part, chosen = logits[start : start + step], decided[start : start + step]
            if self.top_k is not None:
                ranks = np.argsort(-np.nan_to_num(part, nan=-np.inf), axis=1, kind="stable")
                np.put_along_axis(chosen, ranks[:, : int(self.top_k)], True, axis=1)
                continue
            scores, required = _clipped(part), logit(np.asarray(thresholds, np.float64))
            np.greater(scores, required, out=chosen)
            if self.at_least_one:
                empty = np.flatnonzero(~chosen.any(axis=1))
                chosen[empty, (scores[empty] - required).argmax(axis=1)] = True
        return decided

    def _best_threshold(self, ranked: np.ndarray, positives: np.ndarray) -> float:
        """Return the best threshold, a logit, of all scores (ascending) and the scores of the positives."""
        if not len(positives):
            return 0.0
        # The best threshold is just below a positive: any other predicts more negatives for the same positives.
        candidates, counts = np.unique(positives, return_counts=True)
        true_positives = np.cumsum(counts[::-1])[::-1]
        predicted = len(ranked) - np.searchsorted(ranked, candidates)
        if self.objective == "f1":
            value = 2 * true_positives / (predicted + len(positives))
        else:
            precision, recall = true_positives / predicted, true_positives / len(positives)
            required, other = (precision, recall) if self.objective == "precision" else (recall, precision)
            reached = required >= float(self.target or 0)
            value = np.where(reached, other, -1.0) if reached.any() else required
        # The first of ties is the lowest threshold, with the highest recall.
        best = value.argmax()
        above = float(candidates[best])
        below = float(ranked[-predicted[best] - 1]) if predicted[best] < len(ranked) else above - 1
        return (above + below) / 2


def _candidate_thresholds(positives: np.ndarray) -> np.ndarray:
    """Return the global thresholds to try for the macro average, logits: scores of positives, ascending."""
    scores = np.unique(positives.astype(np.float64))
    if len(scores) > CANDIDATES:
        scores = scores[np.linspace(0, len(scores) - 1, CANDIDATES).round().astype(int)]
    return scores


def _sorted_labels(logits: np.ndarray) -> Iterator[tuple[range, np.ndarray]]:
    """Yield blocks of labels and their scores [L, N], ascending within each label."""
    texts, labels = logits.shape
    step = max(1, _SORTED_CELLS // max(texts, 1))
    for start in range(0, labels, step):
        ranked = _clipped(np.ascontiguousarray(logits[:, start : start + step].T))
        ranked.sort(axis=1)
        yield range(start, start + len(ranked)), ranked


def _threshold_below(logits: np.ndarray, above: float) -> float:
    """Return the middle between the score `above` and the next lower one; `above` - 1 if there is none."""
    below, step = -np.inf, max(1, _BLOCK_CELLS // logits.shape[1])
    for start in range(0, len(logits), step):
        scores = _clipped(logits[start : start + step])
        below = max(below, float(scores.max(initial=-np.inf, where=scores < above)))
    return (above + below) / 2 if np.isfinite(below) else above - 1


def read_thresholds(path: str | Path, labels: Sequence[str]) -> np.ndarray:
    """Read thresholds from a JSON file that maps every label to a probability.

    Args:
        path: JSON file.
        labels: Names of the C labels.

    Returns:
        Float64 [C], in the order of `labels`.

    Raises:
        UserError: The file cannot be read, has other labels, or holds a value that is not a probability.
    """
    key = f"decision.file={path}"
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{key}: the file does not exist") from None
    except OSError as error:
        raise UserError(f"{key}: the file cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{key}: the file is not JSON ({error})") from error
    if not isinstance(given, dict):
        raise UserError(f"{key}: expected a mapping from label to threshold, such as {{{labels[0]!r}: 0.5}}")
    wanted = set(labels)
    missing, unknown = [label for label in labels if label not in given], [name for name in given if name not in wanted]
    if missing or unknown:
        problems = [f"no threshold for {_first_of(missing)}"] if missing else []
        if unknown:
            problems.append(f"the training data has no label {_first_of(unknown)}.{nearest(unknown[0], labels)}")
        raise UserError(f"{key}: the labels do not match: {'; '.join(problems)}")
    for label in labels:
        if not (is_number(given[label]) and 0 < given[label] < 1):
            raise UserError(f"{key}: the threshold of '{label}' is {given[label]}. Use a probability between 0 and 1.")
    return np.array([given[label] for label in labels], np.float64)


def _clipped(logits: np.ndarray) -> np.ndarray:
    """Clip logits, float [N, C], to what a probability can express."""
    scores = np.asarray(logits)
    scores = scores.astype(np.result_type(scores, np.float32), copy=False)
    return np.clip(np.nan_to_num(scores, nan=LOWEST), LOWEST, HIGHEST)


def _first_of(names: Sequence[str]) -> str:
    return f"'{names[0]}'" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
