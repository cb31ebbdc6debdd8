"""Facts of small runs with hostile names and texts."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from scipy.special import logit

from counterpoise.balance import ClassIndex, PowerSampler, Strategy
from counterpoise.metrics import calibration
from counterpoise.metrics.buckets import Bounds
from counterpoise.metrics.class_counts import ClassCounts
from counterpoise.training.results import RunResults
from scores import multi_label_scores, single_label_scores

HOSTILE = [
    "<script>window.hacked=1</script>",
    "</script><img src=x onerror=window.hacked=1>",
    "<b>bold</b><a href='https://example.org/'>link</a>",
    "a & b &lt; %{x} $y$",
]
LABELS = [*HOSTILE, "ordinary", "rare"]
TEXTS = 240


def single_label(seed: int = 0, **changes: Any) -> RunResults:
    """Returns a run of one class a text: six classes of 120 to 1 training texts."""
    rng, counts = np.random.default_rng(seed), np.array([120, 60, 30, 12, 4, 1])
    train = np.repeat(np.arange(6), counts)
    splits = {}
    for name, size in (("test", TEXTS), ("validation", 80)):
        targets = rng.choice(5, size, p=counts[:5] / counts[:5].sum())  # the rare class has no test text
        logits = rng.normal(size=(size, 6)).astype(np.float32)
        logits[np.arange(size), targets] += 1.8
        splits[name] = (logits, targets)
    measured = {
        name: single_label_scores(ClassCounts.of(targets, logits.argmax(1), 6), counts, 20, 50) | {"loss": 0.5}
        for name, (logits, targets) in splits.items()
    }
    return _facts(train, splits, measured, rng, **changes)


def multi_label(seed: int = 0, **changes: Any) -> RunResults:
    """Returns a run of any number of labels a text: six labels, thresholds of their own."""
    rng, shares = np.random.default_rng(seed), np.array([0.5, 0.3, 0.15, 0.08, 0.05, 0.01])
    train = csr_matrix(rng.random((400, 6)) < shares)
    thresholds, splits = np.array([0.5, 0.35, 0.6, 0.45, 0.3, 0.5]), {}
    for name, size in (("test", TEXTS), ("validation", 80)):
        targets = rng.random((size, 6)) < shares
        targets[:, 5] = False
        logits = (rng.normal(size=(size, 6)) + 1.6 * targets - 1).astype(np.float32)
        splits[name] = (logits, csr_matrix(targets))
    decided = splits["test"][0] > logit(thresholds)
    counts = train.getnnz(axis=0)
    measured = {
        name: multi_label_scores(logits > logit(thresholds), logits, targets, counts, 20, 50) | {"loss": 0.1}
        for name, (logits, targets) in splits.items()
    }
    return _facts(train, splits, measured, rng, **{"decided": decided, "thresholds": thresholds} | changes)


def _facts(train: Any, splits: Any, measured: Any, rng: np.random.Generator, **changes: Any) -> RunResults:
    correction = Strategy(sampler=PowerSampler(0.5)).correction(LABELS, ClassIndex.from_targets(train, 6))
    words = np.array([*HOSTILE, "word", "another"])
    texts = [" ".join(words[rng.integers(6, size=rng.integers(3, 60))]) for _ in range(TEXTS)]
    steps = np.arange(9, 200, 10)
    losses = {"step": steps, "train/loss_step": np.exp(-steps / 80), "val/loss": np.nan, "val/macro_f1": np.nan}
    history = pd.DataFrame(losses)
    history.loc[[9, 19], "val/loss"], history.loc[[9, 19], "val/macro_f1"] = [0.4, 0.6], [0.5, 0.55]
    arguments = {
        "name": "run <i>one</i>",
        "strategy": "combined",
        "probe": False,
        "config": {"seed": 3, "encoder": {"name": "tiny"}, "data": {"train": "a<b>.csv"}},
        "metrics": {
            **measured,
            "train_sample": measured["test"] | {"macro_f1": 0.99},
            "strategy": {"weight_ratio": 2.0, "effective_sample_size": 0.8},
            "data": {name: {"examples": 10, "dropped": {"without <text>": 1}, "unseen": 0} for name in splits},
            "epochs": 2,
            "steps": 200,
        },
        "seconds": 75.0,
        "correction": correction,
        "effective_prior": correction.effective_prior,
        "bounds": Bounds(20, 50),
        "ids": [f"id<{row}>" for row in range(TEXTS)],
        "texts": lambda rows: [texts[row] for row in rows],
        "test_targets": splits["test"][1],
        "test_logits": splits["test"][0],
        "validation_targets": splits["validation"][1],
        "validation_logits": splits["validation"][0],
        "lengths": rng.integers(3, 33, 227),
        "max_length": 32,
        "calibration": calibration.measure(
            LABELS,
            correction.counts,
            splits["validation"],
            splits["test"],
            calibration.PriorShift(None, np.zeros(6)),
            Bounds(20, 50),
        ),
        "history": history,
        "data_warnings": ["a line with <script>window.hacked=1</script>"],
    }
    return RunResults(**arguments | changes)
