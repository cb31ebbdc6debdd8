"""A linear baseline: one support vector machine per class on TF-IDF features of words and characters."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from counterpoise.balance.counts import Targets
from counterpoise.balance.validation import is_number
from counterpoise.errors import UserError
from counterpoise.saved_files import reading

TOLERANCE = 0.1
"""Stopping criterion of the solver, the default of LIBLINEAR. That of scikit-learn, 1e-4, gives the same validation
scores on Reuters and takes longer."""
MAX_COEFFICIENTS = 2**27
"""Largest number of coefficients, half a gigabyte: with many classes the number of features is lowered."""
CONSTANT = 10.0
"""Logit of a label that all training texts have, and minus that of a class without any. Others are mostly within 3."""


@dataclass(frozen=True)
class FittedTfidf:
    """A fitted model of C classes on F features.

    Args:
        vectorizers: Fitted vectorizers, whose features are concatenated.
        coefficients: Float32 [F, C].
        intercepts: Float32 [C].
    """

    vectorizers: Sequence[TfidfVectorizer]
    coefficients: np.ndarray
    intercepts: np.ndarray

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return the distances to the separating planes, float32 [N, C]. They rank classes and are no log-odds."""
        features = sparse.hstack([each.transform(texts) for each in self.vectorizers], "csr")
        return features.astype(np.float32) @ self.coefficients + self.intercepts

    def save(self, folder: Path) -> None:
        """Write the model to a folder: `tfidf.json` (the features) and `tfidf.safetensors` (the weights, in fp16).

        `load` returns a model whose logits differ from those of this one by the rounding to fp16.
        """
        vectorizers = [
            {name: getattr(each, name) for name in ("analyzer", "ngram_range", "sublinear_tf")}
            | {"terms": each.get_feature_names_out().tolist()}
            for each in self.vectorizers
        ]
        (folder / "tfidf.json").write_text(json.dumps(vectorizers, ensure_ascii=False), encoding="utf-8")
        weights = {
            "coefficients": self.coefficients.astype(np.float16),
            "intercepts": self.intercepts,
            **{f"idf_{number}": each.idf_ for number, each in enumerate(self.vectorizers)},
        }
        save_file(weights, folder / "tfidf.safetensors")

    @classmethod
    def load(cls, folder: Path) -> "FittedTfidf":
        """Return a model that `save` wrote.

        Raises:
            UserError: A file is missing or damaged.
        """
        with reading(folder):
            settings = json.loads((folder / "tfidf.json").read_text(encoding="utf-8"))
            weights = load_file(folder / "tfidf.safetensors")
            vectorizers = []
            for number, each in enumerate(settings):
                vectorizer = _vectorizer(each["analyzer"], each["ngram_range"], sublinear_tf=bool(each["sublinear_tf"]))
                vectorizer.set_params(vocabulary=[str(term) for term in each["terms"]])
                vectorizer.idf_ = weights[f"idf_{number}"]
                vectorizers.append(vectorizer)
            coefficients = weights["coefficients"].astype(np.float32)
            if coefficients.shape != (sum(len(each.idf_) for each in vectorizers), len(weights["intercepts"])):
                raise ValueError("the shapes of the weights do not fit the features")
            return cls(vectorizers, coefficients, weights["intercepts"])


@dataclass(frozen=True)
class TfidfLinear:
    """Settings of the baseline.

    The defaults were chosen by cross-validation on the training texts of R52 and on the validation split of Debian's
    tags.

    Args:
        word_ngrams: Shortest and longest sequence of words that is a feature, such as (1, 2). None: no words.
        char_ngrams: Shortest and longest sequence of characters, within words. None: no characters.
        sublinear: Count a feature that occurs t times in a text as 1 + log(t).
        min_df: Leave out features of fewer training texts.
        max_features: Largest number of features of each kind, the most frequent ones; fewer for many classes, see
            `MAX_COEFFICIENTS`.
        regularisation: Inverse strength C of the L2 penalty.
        beta: Exponent of the class weights w_c = n_c^(-beta), as in `balance.weights`. 0: no weights; 1: "balanced".
        max_work: Train on a sample of the texts such that its characters times the number of classes do not exceed
            this; rows of small classes are kept. Bounds time and memory.

    Raises:
        UserError: A setting is out of range.
    """

    word_ngrams: Sequence[int] | None = (1, 2)
    char_ngrams: Sequence[int] | None = (3, 5)
    sublinear: bool = False
    min_df: int = 2
    max_features: int = 100_000
    regularisation: float = 1.0
    beta: float = 1.0
    max_work: float = 1.5e9

    def __post_init__(self) -> None:
        for name in ("word_ngrams", "char_ngrams"):
            span = getattr(self, name)
            whole = span is not None and len(span) == 2 and all(type(n) is int for n in span)
            if span is not None and not (whole and 1 <= span[0] <= span[1]):
                raise UserError(
                    f"baseline.{name}={span}: use the shortest and the longest length, such as [1,2], or null"
                )
        if self.word_ngrams is None and self.char_ngrams is None:
            raise UserError("baseline.word_ngrams and baseline.char_ngrams are both null: set one, or baseline=none")
        for name, least, rule in (
            ("min_df", 1, "a whole number of at least 1"),
            ("max_features", 1, "a whole number of at least 1"),
            ("regularisation", 1e-12, "a number above 0"),
            ("beta", 0, "a number of at least 0"),
            ("max_work", 1, "a number of at least 1"),
        ):
            value = getattr(self, name)
            if not (is_number(value) and least <= value < np.inf) or ("whole" in rule and value != int(value)):
                raise UserError(f"baseline.{name}={value}: use {rule}")

    def sample(self, lengths: np.ndarray, targets: Targets, classes: int) -> np.ndarray:
        """Return the sorted rows to train on: all, or as many of each class as `max_work` allows, chosen at random.

        Args:
            lengths: Characters of each text, int [N].
            targets: Class numbers, int [N], or labels, csr [N, C].
            classes: Number of classes C.
        """
        # Features are extracted once for all classes, which takes as long as training about 64 of them.
        limit = self.max_work / max(classes, 64)
        if lengths.sum() <= limit:
            return np.arange(len(lengths))
        order = np.random.default_rng(0).permutation(len(lengths))
        rank = np.full(len(order), len(order))
        for members in _rows_by_class(targets, classes, order):
            rank[members] = np.minimum(rank[members], np.arange(len(members)))
        unlabelled = order[rank[order] == len(order)]
        rank[unlabelled] = np.arange(len(unlabelled))
        by_rank = order[np.argsort(rank[order], kind="stable")]
        kept = int(np.searchsorted(np.cumsum(lengths[by_rank]), limit, "right"))
        return np.sort(by_rank[: max(kept, 1)])

    def fit(
        self, texts: Sequence[str], targets: Targets, classes: int, weights: np.ndarray | None = None
    ) -> FittedTfidf:
        """Fit vectorizers and classifiers. The result depends on the arguments only.

        Args:
            texts: Training texts.
            targets: Class numbers, int [N], or labels, csr [N, C].
            classes: Number of classes C.
            weights: Instance weights, float [N]. Defaults to 1.

        Raises:
            UserError: No text has a feature.
        """
        vectorizers, parts = [], []
        most = max(1, min(self.max_features, MAX_COEFFICIENTS // (2 * classes)))
        for analyzer, span in (("word", self.word_ngrams), ("char_wb", self.char_ngrams)):
            if span is not None:
                vectorizer = _vectorizer(
                    analyzer,
                    span,
                    sublinear_tf=self.sublinear,
                    min_df=min(self.min_df, len(texts)),
                    max_features=most,
                )
                try:
                    parts.append(vectorizer.fit_transform(texts))
                except ValueError:  # no n-gram of this kind occurs often enough
                    continue
                vectorizers.append(vectorizer)
        if not parts:
            raise UserError(
                f"baseline: no word or character sequence occurs in {self.min_df} training texts (baseline.min_df); "
                "baseline=none leaves the baseline out"
            )
        features = sparse.hstack(parts, "csr")
        coefficients = np.zeros((features.shape[1], classes), np.float32)
        intercepts = np.empty(classes, np.float32)
        rows = np.arange(len(texts))
        for label, members in enumerate(_rows_by_class(targets, classes, rows)):
            if len(members) in (0, len(texts)):
                intercepts[label] = CONSTANT if len(members) else -CONSTANT
                continue
            truth = np.zeros(len(texts))
            truth[members] = 1
            class_weights = self._class_weights(len(members), len(texts), classes, isinstance(targets, np.ndarray))
            svm = LinearSVC(C=self.regularisation, tol=TOLERANCE, random_state=0, class_weight=class_weights)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                svm.fit(features, truth, weights)
            coefficients[:, label], intercepts[label] = svm.coef_[0], svm.intercept_[0]
        return FittedTfidf(vectorizers, coefficients, intercepts)

    def load(self, folder: Path) -> FittedTfidf:
        """Return a fitted model that was saved to a folder. Raise UserError if it cannot be read."""
        return FittedTfidf.load(folder)

    def _class_weights(self, positives: int, texts: int, classes: int, single_label: bool) -> dict[float, float]:
        """Return the weights of negatives (0) and positives (1) of a class; with beta = 1 those of "balanced"."""
        if single_label:
            return {0.0: 1.0, 1.0: (texts / (classes * positives)) ** self.beta}
        ratio, share = ((texts - positives) / positives) ** self.beta, positives / texts
        negative = 1 / (share * ratio + 1 - share)
        return {0.0: negative, 1.0: ratio * negative}


def _vectorizer(analyzer: str, span: Sequence[int], **settings: Any) -> TfidfVectorizer:
    """Return an unfitted vectorizer of words ("word") or of characters within words ("char_wb")."""
    if analyzer not in ("word", "char_wb"):
        raise ValueError(f"the analyzer {analyzer!r} is unknown")
    # Words of one character are words in many languages.
    pattern = r"(?u)\b\w+\b" if analyzer == "word" else None
    shortest, longest = span
    return TfidfVectorizer(analyzer=analyzer, token_pattern=pattern, ngram_range=(shortest, longest), **settings)


def _rows_by_class(targets: Targets, classes: int, order: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each class, in the order in which they appear in `order`, a permutation of all rows."""
    if isinstance(targets, np.ndarray):
        columns, rows = targets[order], order
    else:
        ordered = targets[order].tocoo()
        columns, rows = ordered.col, order[ordered.row]
    by_class = np.argsort(columns, kind="stable")
    ends = np.cumsum(np.bincount(columns, minlength=classes))
    return np.split(rows[by_class], ends[:-1])
