import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.metrics import f1_score, matthews_corrcoef, recall_score
from torch.nn import functional as F

from counterpoise.metrics.buckets import Bounds
from counterpoise.metrics.scoring import Mean, MultiLabelScoring, SingleLabelScoring
from counterpoise.metrics.thresholds import Decision
from scores import multi_label_scores

BOUNDS = Bounds(20, 50)
COUNTS = np.array([120, 60, 30, 12, 4, 1])


def single(texts: int = 200, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    classes = rng.choice(5, texts, p=[0.4, 0.3, 0.15, 0.1, 0.05])  # the last class has no text
    logits = rng.normal(size=(texts, 6)).astype(np.float32)
    logits[np.arange(texts), classes] += 1.5
    return torch.from_numpy(logits), torch.from_numpy(classes)


def several(texts: int = 200, labels: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    targets = rng.random((texts, labels)) < 0.3 / np.arange(1, labels + 1)
    logits = (rng.normal(size=(texts, labels)) + 2 * targets - 1).astype(np.float32)
    return torch.from_numpy(logits), torch.from_numpy(targets.astype(np.float32))


def scoring(decision: Decision | None = None, labels: int = 6) -> MultiLabelScoring:
    names = [f"label {c}" for c in range(labels)]
    return MultiLabelScoring(names, np.arange(labels, 0, -1) * 20, BOUNDS, decision or Decision())


def fill(made: SingleLabelScoring | MultiLabelScoring, given: tuple[torch.Tensor, torch.Tensor], size: int) -> None:
    for logits, targets in zip(*(each.split(size) for each in given), strict=True):
        made.update(logits, targets)


@pytest.mark.parametrize("size", [1, 7, 200])
def test_single_label_scores_over_batches_match_scikit_learn(size):
    logits, classes = single()
    made = SingleLabelScoring(COUNTS, BOUNDS)
    fill(made, (logits, classes), size)
    found, predicted = made.scores(), logits.argmax(1)
    expected = f1_score(classes, predicted, labels=range(5), average="macro")
    assert found["macro_f1"] == pytest.approx(expected)
    assert found["mcc"] == pytest.approx(matthews_corrcoef(classes, predicted))
    assert found["balanced_accuracy"] == pytest.approx(
        recall_score(classes, predicted, labels=range(5), average="macro")
    )
    assert found["loss"] == pytest.approx(F.cross_entropy(logits, classes).item(), rel=1e-5)
    assert found == pytest.approx(made.measure(logits.numpy(), classes.numpy()), rel=1e-5)


@pytest.mark.parametrize("size", [1, 7, 200])
def test_multi_label_scores_do_not_depend_on_the_batch_size(size):
    logits, targets = several()
    made = scoring(Decision(0.4))
    fill(made, (logits, targets), size)
    held = csr_matrix(targets.numpy() > 0)
    expected = multi_label_scores(torch.sigmoid(logits).numpy() > 0.4, logits.numpy(), held, made.counts, *BOUNDS)
    found = made.scores()
    assert found.pop("loss") == pytest.approx(F.binary_cross_entropy_with_logits(logits, targets).item(), rel=1e-5)
    assert found == expected


def test_scores_can_be_computed_repeatedly_and_between_batches():
    given = several(100)
    made, other = scoring(), scoring()
    fill(made, tuple(each[:60] for each in given), 20)
    made.scores()
    fill(made, tuple(each[60:] for each in given), 20)
    fill(other, given, 100)
    assert made.scores() == made.scores() == other.scores()


def test_after_a_reset_only_the_thresholds_stay():
    made = scoring()
    fill(made, several(100, seed=1), 50)
    made.scores(tune=True)
    tuned = made.thresholds.clone()
    assert (tuned != 0.5).any()
    made.reset()
    fill(made, several(100), 50)
    alone = scoring()
    alone.thresholds.copy_(tuned)
    fill(alone, several(100), 50)
    assert made.scores() == alone.scores()


def test_texts_without_labels_count():
    logits, targets = several(40)
    targets[10:30] = 0
    made = scoring(Decision(0.5))
    fill(made, (logits, targets), 10)
    assert made.scores()["labels_per_text"] == pytest.approx(targets.sum().item() / 40)


def test_a_given_threshold_does_not_change_the_tuned_ones():
    logits, targets = several()
    made, held = scoring(), csr_matrix(targets.numpy() > 0)
    made.tune(logits.numpy(), held)
    kept = made.thresholds.clone()
    at_half = scoring(Decision(0.5)).measure(logits.numpy(), held)
    assert made.measure(logits.numpy(), held, threshold=0.5) == at_half != made.measure(logits.numpy(), held)
    assert torch.equal(made.thresholds, kept)


@pytest.mark.parametrize("labels", [1, 2, 4, 12])
def test_names_match_the_scores(labels):
    made = scoring(labels=labels)
    fill(made, (torch.eye(labels), torch.eye(labels)), labels)
    assert made.names(csr_matrix(np.eye(labels, dtype=bool))) == list(made.scores())
    counts = np.arange(labels, 0, -1) * 20
    one = SingleLabelScoring(counts, BOUNDS)
    fill(one, (torch.eye(labels), torch.arange(labels)), labels)
    assert one.names(np.arange(labels)) == list(one.scores())


def test_a_bucket_without_texts_has_no_metrics():
    counts = np.array([200, 30, 5])
    assert "tail_recall" not in SingleLabelScoring(counts, BOUNDS).names(np.array([0, 1, 0]))
    assert "tail_recall" in SingleLabelScoring(counts, BOUNDS).names(np.array([0, 1, 2]))
    made = MultiLabelScoring(["a", "b", "c"], counts, BOUNDS, Decision())
    held = csr_matrix([[True, False, False], [False, True, False]])
    assert "medium_f1" in made.names(held)
    assert "tail_f1" not in made.names(held)


def test_thresholds_stay_in_double_precision_on_the_cpu():
    made = scoring()
    kept = made.thresholds.clone()
    moved = made.to(torch.float16).to("meta")
    assert moved.thresholds.device.type == "cpu"
    assert moved.thresholds.dtype == torch.float64
    assert torch.equal(moved.state_dict()["thresholds"], kept)


def test_the_mean_weights_batches_by_texts_and_keeps_nan():
    mean = Mean()
    for value, texts in ((1.0, 3), (5.0, 1)):
        mean.update(torch.tensor(value), texts)
    assert mean.compute() == 2
    mean.update(torch.tensor(torch.nan), 2)
    assert mean.compute().isnan()
    mean.reset()
    mean.update(torch.tensor(7.0), 2)
    assert mean.compute() == 7


def test_accumulators_store_logits_once_and_targets_sparsely():
    made, labels = scoring(labels=3000), 3000
    logits, targets = torch.zeros(50, labels), torch.zeros(50, labels)
    targets[torch.arange(50), torch.arange(50)] = 1
    made.update(logits, targets)
    stored = made.accumulated
    kept = sum(each.nbytes for each in (*stored.logits, *stored.sizes, *stored.labels))
    assert kept < 1.01 * logits.nbytes
    joined, held = made.accumulated.compute()
    assert held.nnz == 50
    assert [each.data_ptr() for each in made.accumulated.logits] == [joined.ctypes.data]
    counts = SingleLabelScoring(np.ones(labels), BOUNDS)
    counts.update(logits, torch.arange(50))
    assert sum(state.nbytes for state in counts.class_counts.metric_state.values()) <= 3 * 8 * labels
