from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.metrics import roc_auc_score

from counterpoise.errors import UserError
from counterpoise.metrics import registry
from counterpoise.metrics.buckets import Bounds
from counterpoise.metrics.class_counts import ClassCounts
from counterpoise.metrics.registry import EvaluatedSplit, evaluate, load, metric, select
from counterpoise.metrics.scoring import MultiLabelScoring, SingleLabelScoring
from counterpoise.metrics.thresholds import Decision

COUNTS = np.array([200, 60, 5])
BOUNDS = Bounds(20, 101)

AUROC = '''
import numpy as np
from sklearn.metrics import roc_auc_score

from counterpoise.metrics.registry import EvaluatedSplit, metric


@metric("macro AUROC", needs="logits", shown={"results": 65, "leaderboard": 15, "headline": 40, "comparison": 70})
def macro_auroc(split: EvaluatedSplit) -> float:
    """Mean area under the ROC curve of one class against the rest, over classes with both outcomes."""
    positives = split.truth.sum(axis=0)
    varied = np.flatnonzero((positives > 0) & (positives < len(split.truth)))
    return np.mean([roc_auc_score(split.truth[:, c], split.logits[:, c]) for c in varied])
'''


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Metrics that a test registers are gone after it."""
    monkeypatch.setattr(registry, "_metrics", dict(registry._metrics))
    return


@pytest.fixture
def fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The dotted path of a metric in a fork's package."""
    (tmp_path / "mytask_metrics.py").write_text(AUROC)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "mytask_metrics", raising=False)
    return "mytask_metrics.macro_auroc"


def sample(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    classes = rng.choice(2, 60, p=[0.7, 0.3])  # The last class has no text.
    logits = rng.normal(size=(60, 3)).astype(np.float32)
    logits[np.arange(60), classes] += 1
    return logits, classes


def test_a_listed_metric_is_part_of_single_label_validation(fork):
    load([fork])
    logits, classes = sample()
    scoring = SingleLabelScoring(COUNTS, BOUNDS)
    for part in (slice(0, 25), slice(25, 60)):
        scoring.update(torch.from_numpy(logits[part]), torch.from_numpy(classes[part]))
    expected = np.mean([roc_auc_score(classes == c, logits[:, c]) for c in (0, 1)])
    assert scoring.scores()["macro_auroc"] == pytest.approx(expected)
    assert scoring.measure(logits, classes)["macro_auroc"] == pytest.approx(expected)
    assert scoring.names(classes) == list(scoring.scores())


def test_a_listed_metric_is_part_of_multi_label_validation(fork):
    load([fork])
    logits, classes = sample()
    held = np.eye(3, dtype=bool)[classes]
    scoring = MultiLabelScoring(["a", "b", "c"], COUNTS, BOUNDS, Decision())
    scoring.update(torch.from_numpy(logits), torch.from_numpy(held.astype(np.float32)))
    expected = np.mean([roc_auc_score(held[:, c], logits[:, c]) for c in (0, 1)])
    assert scoring.scores()["macro_auroc"] == pytest.approx(expected)
    assert scoring.names(csr_matrix(held)) == list(scoring.scores())


@pytest.mark.parametrize("task", registry.TASKS)
def test_a_listed_metric_is_shown_in_every_view(fork, task):
    load([fork])
    for view in registry.VIEWS:
        assert "macro_auroc" in [each.name for each in select(task, view)]
    assert [each.name for each in select(task, "leaderboard")][:2] == ["macro_f1", "macro_auroc"]
    assert registry.title("macro_auroc") == "macro AUROC"


def test_loading_twice_changes_nothing(fork):
    load([fork])
    before = select("single_label")
    load([fork])
    assert select("single_label") == before


def test_an_undecorated_function_becomes_a_metric_of_both_tasks(tmp_path, monkeypatch):
    (tmp_path / "plain_metrics.py").write_text("def texts(split):\n    return len(split.logits)\n")
    monkeypatch.syspath_prepend(tmp_path)
    load(["plain_metrics.texts"])
    scoring = SingleLabelScoring(COUNTS, BOUNDS)
    assert scoring.measure(*sample())["texts"] == 60


@pytest.mark.parametrize("path", ["no_such_package.metric", "counterpoise.metrics.registry.nothing", "nothing", ""])
def test_a_path_that_cannot_be_imported_is_a_user_error(path):
    with pytest.raises(UserError, match=r"metrics: .*PACKAGE\.MODULE\.FUNCTION"):
        load([path])


def test_logits_of_single_label_validation_are_stored_only_if_a_metric_needs_them(fork):
    assert SingleLabelScoring(COUNTS, BOUNDS).accumulated is None
    load([fork])
    assert SingleLabelScoring(COUNTS, BOUNDS).accumulated is not None


def test_a_metric_that_needs_logits_is_absent_without_them(fork):
    load([fork])
    split = EvaluatedSplit("single_label", ClassCounts.of(np.array([0, 1]), np.array([0, 0]), 3), COUNTS)
    assert "macro_auroc" not in evaluate(split)
    assert evaluate(split)["accuracy"] == 0.5


def test_a_metric_that_returns_none_is_absent():
    metric(name="undefined")(lambda split: None)
    split = EvaluatedSplit("single_label", ClassCounts.of(np.array([0]), np.array([0]), 3), COUNTS)
    assert "undefined" not in evaluate(split)


@pytest.mark.parametrize("view", ["results", "leaderboard", "headline", "comparison"])
def test_a_view_over_both_tasks_lists_each_name_once_in_the_order_of_each_task(view):
    names = [each.name for each in registry.columns(view)]
    assert len(names) == len(set(names))
    for task in registry.TASKS:
        shown = [each.name for each in select(task, view)]
        assert [name for name in names if name in shown] == shown


def test_the_resampled_metrics_are_those_of_the_comparison():
    assert [each.name for each in select("single_label", "comparison") if each.resampling][:3] == [
        "macro_f1",
        "balanced_accuracy",
        "accuracy",
    ]
    assert [each.name for each in select("multi_label", "comparison") if each.resampling][:4] == [
        "macro_f1",
        "macro_recall",
        "micro_f1",
        "micro_recall",
    ]
