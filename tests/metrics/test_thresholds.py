import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.special import expit, logit

from counterpoise.metrics import thresholds as decision_module
from counterpoise.metrics.thresholds import Decision, read_thresholds
from refusals import user_error

AIMS = [("f1", None), ("precision", 0.5), ("precision", 0.9), ("precision", 1), ("recall", 0.5), ("recall", 1)]
every_aim = pytest.mark.parametrize(("objective", "target"), AIMS)


def brute_force(scores: np.ndarray, positive: np.ndarray, objective: str, target: float | None) -> np.ndarray:
    """Return which scores the best threshold calls, bool [n], by trying all of them with exact fractions."""
    best, chosen = None, None
    for cut in set(scores.tolist()):
        called = scores >= cut
        true_positives = int((called & positive).sum())
        precision, recall = Fraction(true_positives, int(called.sum())), Fraction(true_positives, int(positive.sum()))
        if objective == "f1":
            value = (Fraction(2 * true_positives, int(called.sum()) + int(positive.sum())), recall, precision)
        else:
            aim, rest = (precision, recall) if objective == "precision" else (recall, precision)
            enough = float(aim) >= target
            value = (enough, rest if enough else aim, recall, precision)
        if best is None or value > best:
            best, chosen = value, called
    assert chosen is not None
    return chosen


@st.composite
def predictions(draw):
    """Scores with many ties, and targets with labels that are rare, missing or everywhere."""
    n, c = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    scores = draw(st.lists(st.integers(-6, 6), min_size=n * c, max_size=n * c))
    positive = draw(st.lists(st.sampled_from([False, False, True]), min_size=n * c, max_size=n * c))
    return np.array(scores, np.float32).reshape(n, c) / 2, np.array(positive).reshape(n, c)


class TestTuning:
    @every_aim
    @settings(max_examples=60)
    @given(given=predictions())
    def test_label_thresholds_match_brute_force(self, objective, target, given):
        scores, positive = given
        decision = Decision("label", objective, target, shrinkage=0)
        decided = decision.decide(scores, decision.fit(scores, csr_matrix(positive)))
        for c in np.flatnonzero(positive.any(0)):
            expected = brute_force(scores[:, c], positive[:, c], objective, target)
            np.testing.assert_array_equal(decided[:, c], expected)

    @every_aim
    @settings(max_examples=60)
    @given(given=predictions())
    def test_the_global_threshold_matches_brute_force_over_all_pairs(self, objective, target, given):
        scores, positive = given
        decision = Decision("global", objective, target, average="micro")
        thresholds = decision.fit(scores, csr_matrix(positive))
        assert (thresholds == thresholds[0]).all()
        if positive.any():
            expected = brute_force(scores.ravel(), positive.ravel(), objective, target).reshape(scores.shape)
            np.testing.assert_array_equal(decision.decide(scores, thresholds), expected)

    @settings(max_examples=100)
    @given(given=predictions())
    def test_no_global_threshold_has_a_higher_macro_f1(self, given):
        scores, positive = given
        known = positive.any(0)
        if not known.any():
            return

        def mean_f1(decided: np.ndarray) -> float:
            true_positives, called = (decided & positive).sum(0), decided.sum(0)
            return (2 * true_positives / np.maximum(called + positive.sum(0), 1))[known].mean()

        decision = Decision("global")
        decided = decision.decide(scores, decision.fit(scores, csr_matrix(positive)))
        best = max(mean_f1(scores >= cut) for cut in np.unique(scores))
        assert mean_f1(decided) == pytest.approx(best)

    @every_aim
    def test_thresholds_match_brute_force_without_ties(self, objective, target):
        rng = np.random.default_rng(0)
        scores = rng.normal(-3, 3, (300, 8)).astype(np.float32)
        positive = rng.random((300, 8)) < expit(scores)
        decision = Decision("label", objective, target, shrinkage=0)
        decided = decision.decide(scores, decision.fit(scores, csr_matrix(positive)))
        for c in range(8):
            expected = brute_force(scores[:, c], positive[:, c], objective, target)
            np.testing.assert_array_equal(decided[:, c], expected)

    def test_a_small_example_worked_by_hand(self):
        # Calling the two highest gives F1 2/3, all four of the five that end in a positive 3 hits of 4 calls: 6/7.
        scores, positive = np.array([[3.0], [1], [0], [-1], [-4]]), np.array([[1], [0], [1], [1], [0]])
        (threshold,) = Decision(shrinkage=0).fit(scores, csr_matrix(positive.astype(bool)))
        assert logit(threshold) == pytest.approx(-2.5)

    def test_precision_and_recall_by_hand(self):
        scores, positive = (
            np.array([[3.0], [1], [0], [-1], [-4]]),
            csr_matrix([[True], [False], [True], [True], [False]]),
        )

        def cut(objective, target):
            return logit(Decision("label", objective, target, shrinkage=0).fit(scores, positive)[0])

        assert cut("precision", 1) == pytest.approx(2)
        assert cut("precision", 0.75) == pytest.approx(-2.5)
        assert cut("recall", 0.3) == pytest.approx(2)
        assert cut("recall", 0.5) == pytest.approx(-2.5)

    def test_an_unreachable_precision_gives_the_highest_possible_one(self):
        scores, positive = np.array([[3.0], [2], [1], [0]]), csr_matrix([[False], [True], [True], [False]])
        decision = Decision("label", "precision", 0.9, shrinkage=0)
        assert logit(decision.fit(scores, positive)[0]) == pytest.approx(0.5)

    def test_a_threshold_never_separates_ties(self):
        scores, positive = np.array([[1.0], [1], [1], [0]]), csr_matrix([[True], [False], [False], [False]])
        (threshold,) = Decision(shrinkage=0).fit(scores, positive)
        assert logit(threshold) == pytest.approx(0.5)

    def test_the_threshold_of_calibrated_probabilities_is_half_the_f1_they_reach(self):
        # Lipton et al., ECML 2014.
        rng = np.random.default_rng(1)
        scores = rng.normal(-1, 2, (200_000, 1)).astype(np.float32)
        positive = rng.random(scores.shape) < expit(scores)
        decision = Decision("global")
        threshold = decision.fit(scores, csr_matrix(positive))
        decided = decision.decide(scores, threshold)
        f1 = 2 * (decided & positive).sum() / (decided.sum() + positive.sum())
        assert threshold[0] == pytest.approx(f1 / 2, abs=0.02)

    def test_labels_with_few_positives_shrink_towards_the_global_threshold(self):
        rng = np.random.default_rng(2)
        scores = rng.normal(-2, 3, (500, 3))
        positive = np.zeros((500, 3), bool)
        for c, m in enumerate((200, 20, 2)):
            positive[np.argsort(-scores[:, c] + rng.normal(0, 2, 500))[:m], c] = True
        targets = csr_matrix(positive)
        own, shared = (logit(Decision(kind, shrinkage=0).fit(scores, targets)) for kind in ("label", "global"))
        shrunk = logit(Decision("label", shrinkage=10).fit(scores, targets))
        m = np.array([200, 20, 2])
        np.testing.assert_allclose(shrunk, (m * own + 10 * shared) / (m + 10), rtol=1e-9)
        np.testing.assert_allclose(logit(Decision(shrinkage=1e12).fit(scores, targets)), shared, rtol=1e-6)

    def test_labels_without_positives_get_the_global_threshold(self):
        scores, positive = np.array([[2.0, 5], [0, 6]]), csr_matrix([[True, False], [False, False]])
        for shrinkage in (0, 10):
            thresholds = Decision(shrinkage=shrinkage).fit(scores, positive)
            assert thresholds[1] == Decision("global").fit(scores, positive)[0]

    @pytest.mark.parametrize("kind", ["label", "global"])
    @pytest.mark.parametrize("n", [0, 3])
    def test_without_any_positive_thresholds_are_one_half(self, kind, n):
        thresholds = Decision(kind).fit(np.full((n, 2), -5.0), csr_matrix((n, 2), dtype=bool))
        np.testing.assert_array_equal(thresholds, 0.5)

    @every_aim
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_thresholds_are_probabilities_however_extreme_the_logits(self, objective, target, dtype):
        extreme = np.array([[6e4, -6e4, 40], [-6e4, 6e4, -800], [50, -50, np.nan], [np.inf, -np.inf, 37]], dtype)
        for positive in (np.eye(4, 3, dtype=bool), np.ones((4, 3), bool), np.eye(4, 3, dtype=bool)[::-1]):
            decision = Decision("label", objective, target)
            thresholds = decision.fit(extreme, csr_matrix(positive))
            assert thresholds.dtype == np.float64
            assert ((thresholds > 0) & (thresholds < 1)).all()
            assert decision.decide(extreme, thresholds).shape == (4, 3)

    def test_nan_logits_count_as_the_lowest(self):
        decision, scores = Decision(shrinkage=0), np.array([[np.nan], [2.0], [-30]])
        thresholds = decision.fit(scores, csr_matrix([[False], [True], [True]]))
        np.testing.assert_array_equal(decision.decide(scores, thresholds), [[False], [True], [True]])

    def test_a_fixed_threshold_is_kept(self):
        decision = Decision(0.3)
        np.testing.assert_array_equal(decision.fit(np.zeros((2, 3)), csr_matrix(np.ones((2, 3), bool))), 0.3)
        np.testing.assert_array_equal(decision.initial("abc"), 0.3)
        assert not decision.tunes

    def test_thresholds_start_at_one_half(self):
        np.testing.assert_array_equal(Decision().initial("abc"), 0.5)
        assert Decision().tunes
        assert Decision("global").tunes
        assert not Decision(top_k=1).tunes

    @pytest.mark.parametrize("options", [{}, {"thresholds": "global"}, {"average": "micro"}, {"shrinkage": 0.0}])
    @pytest.mark.parametrize("decimals", [0, 8])
    def test_the_block_size_does_not_change_the_result(self, options, decimals, monkeypatch):
        rng = np.random.default_rng(0)
        targets = rng.random((60, 12)) < np.linspace(0.4, 0, 12)
        logits = (rng.normal(size=targets.shape) + 2 * targets).round(decimals)
        logits[3, 4] = np.nan
        whole = Decision(**options).fit(logits, csr_matrix(targets))
        monkeypatch.setattr(decision_module, "_BLOCK_CELLS", 30)
        monkeypatch.setattr(decision_module, "_SORTED_CELLS", 150)
        np.testing.assert_array_equal(Decision(**options).fit(logits, csr_matrix(targets)), whole)

    def test_logits_are_not_modified(self):
        scores = np.array([[np.nan, 1e5], [-1e5, 2]], np.float32)
        before = scores.copy()
        decision = Decision(at_least_one=True)
        decision.decide(scores, decision.fit(scores, csr_matrix([[True, False], [False, True]])))
        np.testing.assert_array_equal(scores, before)

    def test_600_labels_are_tuned_each_by_its_own_scores(self):
        rng = np.random.default_rng(3)
        scores = rng.normal(-4, 2, (3000, 600)).astype(np.float32)
        positive = rng.random((3000, 600)) < expit(scores)
        thresholds = Decision().fit(scores, csr_matrix(positive))
        for c in (0, 599):
            own = logit(Decision(shrinkage=0).fit(scores[:, [c]], csr_matrix(positive[:, [c]])))[0]
            shared, m = logit(Decision("global").fit(scores, csr_matrix(positive)))[0], positive[:, c].sum()
            assert logit(thresholds[c]) == pytest.approx((m * own + 10 * shared) / (m + 10))


class TestDeciding:
    def test_a_text_gets_the_labels_above_their_thresholds(self):
        scores = np.array([[1.0, -1, 0], [-3, -3, -3]])
        thresholds = np.array([0.5, 0.1, 0.5])
        decided = Decision().decide(scores, thresholds)
        np.testing.assert_array_equal(decided, expit(scores) > thresholds)
        np.testing.assert_array_equal(decided, [[True, True, False], [False, False, False]])

    def test_at_least_one_gives_an_empty_text_the_label_nearest_to_its_threshold(self):
        # Label 2 is the most probable, label 1 the nearest to its threshold.
        scores = np.array([[-9.0, -3, -1], [5, -3, -1]])
        thresholds = expit([0.0, -2, 2])
        decided = Decision(at_least_one=True).decide(scores, thresholds)
        np.testing.assert_array_equal(decided, [[False, True, False], [True, False, False]])

    @settings(max_examples=60)
    @given(given=predictions())
    def test_at_least_one_adds_labels_to_empty_texts_alone(self, given):
        scores, _ = given
        thresholds = np.full(scores.shape[1], 0.7)
        plain, filled = (Decision(at_least_one=each).decide(scores, thresholds) for each in (False, True))
        np.testing.assert_array_equal(filled.sum(1), np.maximum(plain.sum(1), 1))
        np.testing.assert_array_equal(filled[plain.any(1)], plain[plain.any(1)])

    @pytest.mark.parametrize("k", [1, 2, 3, 7])
    def test_top_k_gives_exactly_the_k_most_probable_labels(self, k):
        scores = np.random.default_rng(4).normal(-40, 30, (50, 5))
        decided = Decision(top_k=k).decide(scores, np.full(5, 0.5))
        assert (decided.sum(1) == min(k, 5)).all()
        for row, chosen in zip(scores, decided, strict=True):
            assert sorted(row[chosen]) == sorted(row)[-k:]

    def test_top_k_breaks_ties_by_order(self):
        decided = Decision(top_k=30).decide(np.tile([0.0, 1.0], (2, 100)), np.full(200, 0.5))
        np.testing.assert_array_equal(decided[0], (np.arange(200) < 60) & (np.arange(200) % 2 == 1))

    def test_top_k_ranks_nan_last(self):
        decided = Decision(top_k=2).decide(np.array([[np.nan, np.nan, -800]]), np.full(3, 0.5))
        np.testing.assert_array_equal(decided, [[True, False, True]])

    @pytest.mark.parametrize("options", [{}, {"at_least_one": True}, {"top_k": 3}])
    def test_the_block_size_does_not_change_the_result(self, options, monkeypatch):
        logits = np.random.default_rng(0).normal(size=(50, 8)).round(1)
        thresholds = np.full(8, 0.8)
        whole = Decision(**options).decide(logits, thresholds)
        monkeypatch.setattr(decision_module, "_BLOCK_CELLS", 20)
        np.testing.assert_array_equal(Decision(**options).decide(logits, thresholds), whole)

    def test_no_texts_are_no_decisions(self):
        for decision in (Decision(), Decision(at_least_one=True), Decision(top_k=2)):
            assert decision.decide(np.zeros((0, 3), np.float32), np.full(3, 0.5)).shape == (0, 3)


class TestFile:
    LABELS = ("role::program", "uitoolkit::gtk", "devel::library")

    def write(self, folder, content):
        path = folder / "thresholds.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    def refused(self, path) -> str:
        error = user_error(read_thresholds, path, self.LABELS)
        assert error.startswith(f"decision.file={path}: ")
        return error

    def test_thresholds_are_read_by_name(self, tmp_path):
        path = self.write(tmp_path, dict(zip(reversed(self.LABELS), (0.1, 0.2, 0.3), strict=True)))
        np.testing.assert_array_equal(read_thresholds(path, self.LABELS), [0.3, 0.2, 0.1])
        decision = Decision(file=str(path))
        np.testing.assert_array_equal(decision.initial(self.LABELS), [0.3, 0.2, 0.1])
        assert not decision.tunes

    def test_a_file_of_another_vocabulary_is_rejected(self, tmp_path):
        message = self.refused(
            self.write(tmp_path, {"role::programm": 0.5, "uitoolkit::gtk": 0.5, "devel::library": 0.5})
        )
        assert "no threshold for 'role::program'" in message
        assert "no label 'role::programm'" in message
        assert "Did you mean 'role::program'?" in message

    def test_missing_labels_are_named(self, tmp_path):
        message = self.refused(self.write(tmp_path, {"uitoolkit::gtk": 0.5}))
        assert message.endswith("no threshold for 'role::program' and 1 more")

    def test_unknown_labels_are_named(self, tmp_path):
        message = self.refused(self.write(tmp_path, dict.fromkeys((*self.LABELS, "xyz"), 0.5)))
        assert message.endswith("the training data has no label 'xyz'.")

    @pytest.mark.parametrize("value", [0, 1, -0.5, 1.5, "high", None, True, float("nan"), [0.5]])
    def test_a_value_that_is_not_a_probability_is_rejected(self, tmp_path, value):
        message = self.refused(self.write(tmp_path, dict.fromkeys(self.LABELS, 0.5) | {"uitoolkit::gtk": value}))
        assert "the threshold of 'uitoolkit::gtk'" in message

    @pytest.mark.parametrize(
        ("content", "message"),
        [("{", "not JSON"), ("[0.5]", "mapping"), ("", "not JSON"), ("null", "mapping")],
    )
    def test_a_file_of_another_format_is_rejected(self, tmp_path, content, message):
        assert message in self.refused(self.write(tmp_path, content))

    def test_an_unreadable_file_is_rejected(self, tmp_path):
        assert "does not exist" in self.refused(tmp_path / "nowhere.json")
        assert "cannot be read" in self.refused(tmp_path)
        (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
        assert "not JSON" in self.refused(tmp_path / "binary")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thresholds": "each"}, "decision.thresholds=each: use label, global or a probability"),
        ({"thresholds": 0}, "decision.thresholds=0:"),
        ({"thresholds": 1.0}, "decision.thresholds=1.0:"),
        ({"thresholds": True}, "decision.thresholds=True:"),
        ({"thresholds": None}, "decision.thresholds=None:"),
        ({"objective": "accuracy"}, "decision.objective=accuracy: use f1, precision, recall"),
        ({"target": 0.5}, "decision.target=0.5"),
        ({"objective": "precision"}, "decision.target=None: decision.objective=precision needs the precision"),
        ({"objective": "recall", "target": 0}, "decision.target=0:"),
        ({"objective": "recall", "target": 1.1}, "decision.target=1.1:"),
        ({"objective": "recall", "target": "high"}, "decision.target=high:"),
        ({"shrinkage": -1}, "decision.shrinkage=-1:"),
        ({"shrinkage": float("inf")}, "decision.shrinkage=inf:"),
        ({"shrinkage": "some"}, "decision.shrinkage=some:"),
        ({"top_k": 0}, "decision.top_k=0:"),
        ({"top_k": 2.5}, "decision.top_k=2.5:"),
        ({"top_k": "all"}, "decision.top_k=all:"),
    ],
)
def test_an_option_out_of_range_is_a_one_line_error(options, message):
    error = user_error(Decision, **options)
    assert error.startswith(message)
