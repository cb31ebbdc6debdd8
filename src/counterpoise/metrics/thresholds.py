"""From logits to labels in multi-label data: thresholds tuned on validation, top-k, at least one."""

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
"""Global thresholds that are tried for the macro average."""
# The logits whose probabilities are above 0 and below 1 in double precision.
LOWEST, HIGHEST = -700.0, 36.0
# Logits at a time, of some texts, and of some labels where they are sorted.
_CELLS = 2**18
_SORTED = 2**22


@dataclass(frozen=True)
class Decision:
    """Which labels a text gets: those whose probability is above their threshold.

    thresholds: "label" (one for each, tuned), "global" (one for all, tuned), or a probability.
    objective: what tuning looks for. "f1": the highest F1; "precision": the highest recall at a precision of `target`
        or more, or the highest precision where none is enough; "recall": the highest precision at a recall of `target`
        or more. Of equals, the one with the higher recall.
    target: the precision or recall that `objective` asks for.
    average: of the F1 that the global threshold is tuned for: "macro", the mean over labels with positives, or "micro",
        over all pairs of text and label at once, which large labels decide. Precision and recall are always micro.
    shrinkage: k in (m t + k t_global) / (m + k), in logits: a label with m validation positives keeps its own threshold
        t only as far as m outweighs k. Thresholds tuned on a handful of positives overfit.
    top_k: the k most probable labels instead, always k of them; thresholds are not used. Of equals, the first.
    at_least_one: a text with nothing above its threshold gets the label with the largest logit over its threshold's.
    file: thresholds by label name, JSON, as `read_thresholds` reads them; nothing is to be tuned then.
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
                f"decision.target={self.target} means nothing to decision.objective=f1: use precision or recall"
            )
        if self.objective != "f1" and not (is_number(self.target) and 0 < float(self.target or 0) <= 1):
            raise UserError(
                f"decision.target={self.target}: decision.objective={self.objective} needs the {self.objective} to "
                "reach, above 0 and up to 1"
            )
        if not (is_number(self.shrinkage) and 0 <= self.shrinkage < float("inf")):
            raise UserError(f"decision.shrinkage={self.shrinkage}: use a number of positives, 0 or more")
        if self.top_k is not None and not (is_number(self.top_k) and self.top_k == int(self.top_k) >= 1):
            raise UserError(f"decision.top_k={self.top_k}: use null or a whole number, 1 or more")

    @property
    def tunes(self) -> bool:
        """Whether thresholds are to be tuned: not where they are given, nor where none is used."""
        return isinstance(self.thresholds, str) and self.file is None and self.top_k is None

    def initial(self, labels: Sequence[str]) -> np.ndarray:
        """Returns the thresholds before any tuning, float64 [C]: those given, else 1/2."""
        if self.file is not None:
            return read_thresholds(self.file, labels)
        return np.full(len(labels), 0.5 if isinstance(self.thresholds, str) else float(self.thresholds))

    def fit(self, logits: np.ndarray, targets: csr_matrix) -> np.ndarray:
        """Returns the thresholds, probabilities between 0 and 1, float64 [C].

        logits: float [N, C]; targets: bool [N, C]; both of the validation split. A threshold lies in the middle, in
        logits, between two scores that differ, so that it never divides equal ones. Labels without positives get the
        global threshold, which is 1/2 where no label has any. A logit that is not a number counts as the lowest.
        """
        if not isinstance(self.thresholds, str):
            return np.full(targets.shape[1], float(self.thresholds))
        logits, by_label = np.asarray(logits), targets.tocsc()
        counts = np.diff(by_label.indptr)
        columns = np.repeat(np.arange(len(counts)), counts)
        # Those of each label, ascending, one label after the other.
        positives = _within_limits(logits[by_label.indices, columns])
        positives = positives[np.lexsort((positives, columns))]
        macro = self.objective == "f1" and self.average == "macro"
        tried = _tried(positives) if macro else None
        means, cuts = np.zeros(0 if tried is None else len(tried)), np.zeros(len(counts))
        for labels, ranked in _sorted_labels(logits) if macro or self.thresholds == "label" else ():
            for c, scores in zip(labels, ranked, strict=True):
                own = positives[by_label.indptr[c] : by_label.indptr[c + 1]]
                if len(own) and tried is not None:
                    called, true_positives = (len(each) - each.searchsorted(tried) for each in (scores, own))
                    means += 2 * true_positives / (called + len(own))
                if len(own) and self.thresholds == "label":
                    cuts[c] = self._cut(scores, own)
        if tried is None:
            shared = self._cut(np.sort(_within_limits(logits), axis=None), positives)
        else:
            shared = _under(logits, float(tried[means.argmax()])) if len(tried) else 0.0
        m = counts if self.thresholds == "label" else 0
        # Without shrinkage a label without positives has no cut of its own either.
        leaning = np.where(m > 0, self.shrinkage, 1.0)
        return expit((m * cuts + leaning * shared) / (m + leaning))

    def decide(self, logits: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
        """Returns which labels each text gets, bool [N, C]; logits: float [N, C]; thresholds: probabilities [C]."""
        logits = np.asarray(logits)
        decided = np.zeros(logits.shape, bool)
        step = max(1, _CELLS // max(logits.shape[1], 1))
        for start in range(0, len(logits), step):
            part, chosen = logits[start : start + step], decided[start : start + step]
            if self.top_k is not None:
                ranks = np.argsort(-np.nan_to_num(part, nan=-np.inf), axis=1, kind="stable")
                np.put_along_axis(chosen, ranks[:, : int(self.top_k)], True, axis=1)
                continue
            scores, cuts = _within_limits(part), logit(np.asarray(thresholds, np.float64))
            np.greater(scores, cuts, out=chosen)
            if self.at_least_one:
                empty = np.flatnonzero(~chosen.any(axis=1))
                chosen[empty, (scores[empty] - cuts).argmax(axis=1)] = True
        return decided

    def _cut(self, ranked: np.ndarray, positives: np.ndarray) -> float:
        """Returns the best threshold, a logit; ranked: all scores, ascending; positives: those of the positives."""
        if not len(positives):
            return 0.0
        # The best cut is at the score of a positive: any other calls more negatives for the same positives.
        candidates, counts = np.unique(positives, return_counts=True)
        true_positives = np.cumsum(counts[::-1])[::-1]
        called = len(ranked) - np.searchsorted(ranked, candidates)
        if self.objective == "f1":
            value = 2 * true_positives / (called + len(positives))
        else:
            precision, recall = true_positives / called, true_positives / len(positives)
            aim, rest = (precision, recall) if self.objective == "precision" else (recall, precision)
            enough = aim >= float(self.target or 0)
            value = np.where(enough, rest, -1.0) if enough.any() else aim
        # The first of equals is the lowest, with the highest recall.
        best = value.argmax()
        above = float(candidates[best])
        below = float(ranked[-called[best] - 1]) if called[best] < len(ranked) else above - 1
        return (above + below) / 2


def _tried(positives: np.ndarray) -> np.ndarray:
    """Returns the global thresholds, logits, that are tried for the macro average: scores of positives, ascending."""
    scores = np.unique(positives.astype(np.float64))
    if len(scores) > CANDIDATES:
        scores = scores[np.linspace(0, len(scores) - 1, CANDIDATES).round().astype(int)]
    return scores


def _sorted_labels(logits: np.ndarray) -> Iterator[tuple[range, np.ndarray]]:
    """Yields the scores of some labels [L, N] at a time, those of each ascending, and which labels they are."""
    texts, labels = logits.shape
    step = max(1, _SORTED // max(texts, 1))
    for start in range(0, labels, step):
        ranked = _within_limits(np.ascontiguousarray(logits[:, start : start + step].T))
        ranked.sort(axis=1)
        yield range(start, start + len(ranked)), ranked


def _under(logits: np.ndarray, above: float) -> float:
    """Returns the middle between the score `above` and the next lower one, `above` - 1 where there is none."""
    below, step = -np.inf, max(1, _CELLS // logits.shape[1])
    for start in range(0, len(logits), step):
        scores = _within_limits(logits[start : start + step])
        below = max(below, float(scores.max(initial=-np.inf, where=scores < above)))
    return (above + below) / 2 if np.isfinite(below) else above - 1


def read_thresholds(path: str | Path, labels: Sequence[str]) -> np.ndarray:
    """Returns the thresholds of a JSON file that maps every label to a probability, float64 [C], ordered as `labels`.

    Raises UserError where the file cannot be read, is of another vocabulary, or holds what is no probability.
    """
    key = f"decision.file={path}"
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{key}: there is no such file") from None
    except OSError as error:
        raise UserError(f"{key}: the file cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{key}: the file is no JSON ({error})") from error
    if not isinstance(given, dict):
        raise UserError(f"{key}: a mapping from label to threshold is expected, such as {{{labels[0]!r}: 0.5}}")
    wanted = set(labels)
    missing, unknown = [label for label in labels if label not in given], [name for name in given if name not in wanted]
    if missing or unknown:
        problems = [f"no threshold for {_first(missing)}"] if missing else []
        if unknown:
            problems.append(f"the training data has no label {_first(unknown)}.{nearest(unknown[0], labels)}")
        raise UserError(f"{key}: thresholds of other labels: {'; '.join(problems)}")
    for label in labels:
        if not (is_number(given[label]) and 0 < given[label] < 1):
            raise UserError(f"{key}: the threshold of '{label}' is {given[label]}: use a probability between 0 and 1")
    return np.array([given[label] for label in labels], np.float64)


def _within_limits(logits: np.ndarray) -> np.ndarray:
    """Returns float [N, C], nowhere beyond what a probability can express."""
    scores = np.asarray(logits)
    scores = scores.astype(np.result_type(scores, np.float32), copy=False)
    return np.clip(np.nan_to_num(scores, nan=LOWEST), LOWEST, HIGHEST)


def _first(names: Sequence[str]) -> str:
    return f"'{names[0]}'" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
