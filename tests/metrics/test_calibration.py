import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, minimize_scalar
from scipy.sparse import csr_matrix
from scipy.special import expit, softmax
from sklearn.metrics import accuracy_score, f1_score

from counterpoise.balance import (
    LDAM,
    Asymmetric,
    BinaryCrossEntropy,
    ClassIndex,
    Correction,
    CrossEntropy,
    DistributionBalanced,
    EffectiveNumber,
    Focal,
    InverseFrequency,
    LogitAdjusted,
    PowerSampler,
    SoftmaxFocal,
    Strategy,
)
from counterpoise.balance.prior_correction import natural_prior_shift
from counterpoise.errors import UserError
from counterpoise.metrics import probabilities as adjust
from counterpoise.metrics.adjustment import Adjustment, read_adjustment
from counterpoise.metrics.buckets import Bounds
from counterpoise.metrics.calibration import (
    Calibration,
    PriorShift,
    measure,
    prior_correction,
)
from refusals import user_error

# Texts that read alike: rows are what they read, columns how many of them are of each class.
TABLE = np.array([[500, 20, 1], [300, 60, 4], [150, 5, 9], [40, 15, 6]])
# For each reading how many texts hold no label, the first, the second, both.
PAIRS = np.array([[400, 60, 9, 3], [200, 90, 5, 8], [150, 10, 12, 2]])
HOLDS = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], bool)

CLASS_LOSSES = {
    "exact": [
        CrossEntropy,
        LogitAdjusted,
        lambda b: LogitAdjusted(b, tau=0.4),
        lambda b: SoftmaxFocal(b, gamma=0),
        lambda b: SoftmaxFocal(b, gamma=0, label_weights=EffectiveNumber(0.9)),
    ],
    "approximate": [lambda b: CrossEntropy(b, label_smoothing=0.1), SoftmaxFocal],
    None: [LDAM],
}
LABEL_LOSSES = {
    "exact": [
        BinaryCrossEntropy,
        lambda b: Focal(b, gamma=0),
        lambda b: Focal(b, gamma=0, label_weights=EffectiveNumber(0.9)),
        lambda b: Asymmetric(b, gamma_negative=0, gamma_positive=0, margin=0),
        lambda b: DistributionBalanced(b, rebalance=False, negative_tolerant=False, gamma=0),
    ],
    "approximate": [
        lambda b: BinaryCrossEntropy(b, label_smoothing=0.1),
        Focal,
        lambda b: Asymmetric(b, gamma_negative=2, gamma_positive=2, margin=0),
        lambda b: DistributionBalanced(b, rebalance=False, negative_tolerant=False),
    ],
    None: [
        Asymmetric,
        lambda b: Asymmetric(b, gamma_negative=0, gamma_positive=0),
        lambda b: Asymmetric(b, gamma_negative=1, gamma_positive=0, margin=0),
        DistributionBalanced,
        lambda b: DistributionBalanced(b, rebalance=False, gamma=0),
        lambda b: DistributionBalanced(b, negative_tolerant=False, gamma=0),
    ],
}


def cases(losses: dict) -> list[tuple[str | None, Callable]]:
    return [(kind, make) for kind, makes in losses.items() for make in makes]


def class_balance(alpha: float = 0.5, beta: float = 0.5) -> Correction:
    index = ClassIndex.from_targets(np.repeat(np.arange(3), TABLE.sum(0)), 3)
    return Strategy(PowerSampler(alpha), InverseFrequency(beta)).correction(["a", "b", "c"], index)


def label_balance(alpha: float = 0.0, beta: float = 1.0) -> Correction:
    index = ClassIndex.from_targets(csr_matrix(np.repeat(HOLDS, PAIRS.sum(0), axis=0)), 2)
    return Strategy(PowerSampler(alpha), InverseFrequency(beta)).correction(["often", "seldom"], index)


def trained(loss: torch.nn.Module, targets: torch.Tensor, drawn: np.ndarray, classes: int) -> np.ndarray:
    """The logits of the least loss for each reading, float64; drawn: how often each reading and target is, [R, T]."""
    readings = torch.arange(len(drawn)).repeat_interleave(drawn.shape[1])
    truth, weights = targets.repeat(len(drawn), *[1] * (targets.ndim - 1)), torch.from_numpy(drawn.ravel())

    def risk(z: np.ndarray) -> tuple[float, np.ndarray]:
        logits = torch.from_numpy(z.reshape(len(drawn), classes)).requires_grad_()
        value = loss(logits[readings], truth, denominator=1.0, weights=weights)
        (slopes,) = torch.autograd.grad(value, logits)
        return value.item(), slopes.numpy().ravel()

    start = np.zeros(len(drawn) * classes)
    return minimize(risk, start, jac=True, method="BFGS", options={"gtol": 1e-10}).x.reshape(len(drawn), classes)


class TestPriorCorrection:
    @pytest.mark.parametrize(("kind", "make"), cases(CLASS_LOSSES))
    def test_only_an_exact_correction_restores_the_natural_posterior_of_classes(self, kind, make):
        correction = class_balance()
        loss = make(correction).double()
        found, shift = prior_correction(loss, correction)
        assert found == kind
        natural = TABLE / TABLE.sum(1, keepdims=True)
        logits = trained(loss, torch.arange(3), TABLE * correction.sampling_probs / correction.counts, 3)
        before, after = (np.abs(softmax(z, axis=1) - natural).max() for z in (logits, logits - shift))
        assert (after < 1e-5) == (kind == "exact")
        if kind == "approximate":
            assert after < before / 2

    @pytest.mark.parametrize(("kind", "make"), cases(LABEL_LOSSES))
    def test_only_an_exact_correction_restores_the_natural_posterior_of_weighted_labels(self, kind, make):
        correction = label_balance()
        loss = make(correction).double()
        found, shift = prior_correction(loss, correction)
        assert found == kind
        natural = PAIRS @ HOLDS / PAIRS.sum(1, keepdims=True)
        logits = trained(loss, torch.from_numpy(HOLDS), PAIRS / PAIRS.sum(), 2)
        before, after = (np.abs(expit(z) - natural).max() for z in (logits, logits - shift))
        assert (after < 1e-5) == (kind == "exact")
        if kind == "approximate":
            assert after < before / 2

    @pytest.mark.parametrize("make", CLASS_LOSSES[None])
    def test_a_loss_without_a_prior_correction_has_no_shift(self, make):
        kind, shift = prior_correction(make(class_balance()), class_balance())
        assert kind is None
        np.testing.assert_array_equal(shift, np.zeros(3))

    def test_a_sampler_over_cooccurring_labels_makes_the_correction_approximate(self):
        correction = label_balance(0.5, 0.5)
        kind, shift = prior_correction(BinaryCrossEntropy(correction), correction)
        assert kind == "approximate"
        np.testing.assert_array_equal(shift, natural_prior_shift(correction))
        index = ClassIndex.from_targets(csr_matrix(HOLDS[:, :1]), 1)
        alone = Strategy(PowerSampler(0.5), InverseFrequency(0.5)).correction(["label"], index)
        assert prior_correction(BinaryCrossEntropy(alone), alone)[0] == "exact"

    def test_the_shift_uses_the_effective_prior_of_the_loss(self):
        correction = class_balance(0, 0)
        shift = prior_correction(LogitAdjusted(correction), correction)[1]
        shares = correction.counts / correction.counts.sum()
        np.testing.assert_allclose(shift - shift[0], -np.log(shares / shares[0]), atol=1e-6)
        np.testing.assert_allclose(prior_correction(CrossEntropy(correction), correction)[1], 0, atol=1e-6)


# Counts of five classes or labels, two of the head, one medium, two of the tail.
COUNTS = np.array([4000, 900, 80, 15, 10])
SHIFT = np.array([-1.0, 0.0, 1.0, 2.0, 2.5])
LABELS = ["a", "b", "c", "d", "é"]
EXACT = PriorShift("exact", SHIFT)


def sample(seed: int, n: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    """Logits and classes drawn from their softmax, float64 [N, 5] and int [N]."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(n, 5)) + np.log(COUNTS / COUNTS.sum()) / 2
    classes = (softmax(logits, axis=1).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return logits, np.minimum(classes, 4)


def label_sample(seed: int, n: int = 2000) -> tuple[np.ndarray, csr_matrix]:
    """The same for labels."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(n, 5)) - np.arange(5)
    return logits, csr_matrix(rng.random((n, 5)) < expit(logits))


def of(draw: Callable, temperature: float = 2.0, prior: PriorShift = EXACT, **options) -> Calibration:
    """The calibration of logits that are off by the shift and a temperature: T z + shift."""
    validation, test = draw(0), draw(1)
    shift = SHIFT if prior.kind else 0
    given = [(temperature * logits + shift, targets) for logits, targets in (validation, test)]
    return measure(LABELS, COUNTS, *given, prior, **options)


def held_out_nll(logits: np.ndarray, targets: np.ndarray | csr_matrix) -> float:
    """The mean NLL of texts with the temperature that is best on the other four folds."""
    fold, parts = np.random.default_rng(0).permutation(len(logits)) % 5, []
    for k in range(5):
        others, own = np.flatnonzero(fold != k), np.flatnonzero(fold == k)

        def nll(log_temperature: float, rows: np.ndarray = others) -> float:
            return adjust.negative_log_likelihood(logits[rows] / np.exp(log_temperature), targets[rows])

        parts += [nll(minimize_scalar(nll, bounds=(-3, 3)).x, own)] * len(own)
    return float(np.mean(parts))


@pytest.mark.parametrize("draw", [sample, label_sample])
class TestMeasure:
    def test_shift_and_temperature_are_undone(self, draw):
        found = of(draw)
        assert found.variant == "prior_corrected_temperature"
        assert found.chosen.temperature == pytest.approx(2, rel=0.1)
        np.testing.assert_array_equal(found.chosen.shift, SHIFT)
        logits, _ = draw(1)
        np.testing.assert_allclose(found.chosen(2 * logits + SHIFT) * found.chosen.temperature / 2, logits)
        test = found.summary["test"]
        assert test["prior_corrected_temperature"]["ece"] < 0.03 < test["raw"]["ece"]
        assert test["prior_corrected_temperature"]["nll"] < test["raw"]["nll"]
        assert test["prior_corrected_temperature"]["aurc"] < test["raw"]["aurc"]

    def test_the_variant_is_the_best_of_the_cross_validation(self, draw):
        assert of(draw, 2.0, PriorShift(None, np.zeros(5))).variant == "temperature"
        # A shift that was never there.
        wrong = of(draw, 2.0, PriorShift("approximate", np.zeros(5)))
        assert list(wrong.variants) == ["raw", "temperature"]
        worse = measure(LABELS, COUNTS, draw(0), draw(1), PriorShift("approximate", SHIFT))
        assert worse.variant in ("raw", "temperature")
        nll = worse.summary["cross_validation"]["nll"]
        assert min(nll, key=nll.get) == worse.variant

    def test_a_temperature_is_judged_on_texts_that_it_was_not_fitted_on(self, draw):
        logits, targets = draw(3, 200)
        found = measure(LABELS, COUNTS, (logits, targets), draw(1), PriorShift("exact", SHIFT))
        report = found.summary["cross_validation"]
        assert report["folds"] == 5
        inside = found.summary["validation"]
        for name in ("raw", "prior_corrected"):
            assert report["nll"][name] == inside[name]["nll"]
        for name, shift in (("temperature", 0 * SHIFT), ("prior_corrected_temperature", SHIFT)):
            assert report["nll"][name] > inside[name]["nll"]
            assert report["nll"][name] == pytest.approx(held_out_nll(logits - shift, targets), rel=1e-6)

    def test_calibrated_probabilities_are_mostly_left_alone_on_small_splits(self, draw):
        found = [
            measure(LABELS, COUNTS, draw(seed, 40), draw(1, 40), PriorShift(None, np.zeros(5))) for seed in range(60)
        ]
        inside = [each.summary["validation"] for each in found]
        fitted = np.mean([scores["temperature"]["nll"] < scores["raw"]["nll"] for scores in inside])
        chosen = np.mean([each.variant == "temperature" for each in found])
        assert fitted > 0.9
        assert chosen < 0.5

    def test_a_single_text_leaves_no_fold_to_choose_a_temperature_by(self, draw):
        logits, targets = draw(0, 1)
        found = measure(LABELS, COUNTS, (logits, targets), draw(1, 40), EXACT)
        assert found.variant in ("raw", "prior_corrected")
        assert found.summary["cross_validation"]["folds"] == 0
        assert json.loads(json.dumps(found.summary, allow_nan=False)) == found.summary

    def test_scores_are_those_of_the_adjusted_logits(self, draw):
        found = of(draw)
        for split, seed in (("validation", 0), ("test", 1)):
            logits, targets = draw(seed)
            for name, adjustment in found.variants.items():
                raw, scores = 2 * logits + SHIFT, found.summary[split][name]
                adjusted, decided = adjustment(raw), raw.argmax(1) if draw is sample else None
                assert scores["nll"] == pytest.approx(adjust.negative_log_likelihood(adjusted, targets), rel=1e-9)
                assert scores["brier"] == pytest.approx(adjust.brier_score(adjusted, targets), rel=1e-9)
                bins = adjust.reliability(adjusted, targets, decided=decided)
                assert scores["ece"] == pytest.approx(bins.error, rel=1e-9)
                if split == "test":
                    adaptive = adjust.adaptive_calibration_error(adjusted, targets, decided=decided)
                    assert scores["adaptive_ece"] == pytest.approx(adaptive, rel=1e-9)
                    curve = adjust.risk_coverage(adjusted, targets, raw > 0 if decided is None else decided)
                    covered = np.arange(1, curve.total + 1)
                    assert scores["aurc"] == pytest.approx(curve.risk(covered).mean(), rel=1e-9)
                    for percent in (50, 80, 90):
                        first = np.flatnonzero(covered / curve.total >= percent / 100 - 1e-12)[0]
                        assert scores[f"risk_at_{percent}"] == pytest.approx(curve.risk(covered[first]), rel=1e-9)
                    assert found.reliability[name].error == scores["ece"]
                    np.testing.assert_allclose(found.risks[name].risk(covered), curve.risk(covered), rtol=1e-9)

    def test_shares_give_observed_and_predicted_frequencies_by_bucket(self, draw):
        shares = of(draw, 1.0).summary["shares"]
        logits, targets = draw(1)
        raw = softmax(logits + SHIFT, axis=1) if draw is sample else expit(logits + SHIFT)
        truth = np.eye(5)[targets] if draw is sample else targets.toarray()
        for bucket, columns in (("head", [0, 1]), ("medium", [2]), ("tail", [3, 4])):
            assert shares[bucket]["observed"] == pytest.approx(truth[:, columns].sum(1).mean())
            assert shares[bucket]["raw"] == pytest.approx(raw[:, columns].sum(1).mean())
        tail = shares["tail"]
        assert tail["raw"] > 2 * tail["observed"]
        assert tail["prior_corrected"] == pytest.approx(tail["observed"], rel=0.2)
        assert set(of(draw, bounds=Bounds(0, 1)).summary["shares"]) == {"head"}

    def test_the_summary_is_json_serialisable(self, draw):
        summary = of(draw).summary
        assert json.loads(json.dumps(summary)) == summary
        assert summary["prior_correction"] == "exact"
        assert set(summary["temperatures"]) == {"temperature", "prior_corrected_temperature"}

    def test_without_a_mistake_in_validation_the_temperature_is_1(self, draw):
        logits = draw(0)[0]
        truth = logits.argmax(1) if draw is sample else logits > 0
        found = measure(LABELS, COUNTS, (logits, truth), draw(1), PriorShift(None, np.zeros(5)))
        assert found.summary["temperatures"] == {"temperature": 1}
        assert found.variant == "raw"

    def test_nonfinite_logits_and_empty_splits_have_no_calibration(self, draw):
        logits, targets = draw(0, 50)
        for bad in (np.nan, np.inf):
            broken = logits.copy()
            broken[3, 2] = bad
            assert measure(LABELS, COUNTS, (logits, targets), (broken, targets), EXACT) is None
            assert measure(LABELS, COUNTS, (broken, targets), (logits, targets), EXACT) is None
        assert measure(LABELS, COUNTS, (logits[:0], targets[:0]), (logits, targets), EXACT) is None

    def test_float32_logits_give_the_same_summary_and_are_not_modified(self, draw):
        logits, targets = draw(0, 200)
        single = logits.astype(np.float32)
        kept = single.copy()
        found = measure(LABELS, COUNTS, (single, targets), (single, targets), EXACT)
        np.testing.assert_array_equal(single, kept)
        twice = single.astype(np.float64)
        assert found.summary == measure(LABELS, COUNTS, (twice, targets), (twice, targets), EXACT).summary


@pytest.mark.parametrize("draw", [sample, label_sample])
def test_risks_are_of_the_uncalibrated_decisions(draw):
    logits, targets = draw(1)
    raw = 2 * logits + SHIFT
    wrong = (raw.argmax(1) != targets).mean() if draw is sample else ((raw > 0) != targets.toarray()).mean()
    for curve in of(draw).risks.values():
        assert curve.risk(np.array([curve.total]))[0] == pytest.approx(wrong)


def test_risks_are_of_the_given_decisions():
    decided = np.random.default_rng(0).random((2000, 5)) < 0.2
    wrong = (decided != label_sample(1)[1].toarray()).mean()
    for curve in of(label_sample, decided=decided).risks.values():
        assert curve.risk(np.array([curve.total]))[0] == pytest.approx(wrong)


def test_decision_scores_match_scikit_learn():
    found, (logits, classes) = of(sample), sample(1)
    for name in ("raw", "prior_corrected"):
        decided = found.variants[name](2 * logits + SHIFT).argmax(1)
        scores = found.summary["test"][name]
        assert scores["accuracy"] == pytest.approx(accuracy_score(classes, decided))
        expected = f1_score(classes, decided, average="macro", labels=np.unique(classes))
        assert scores["macro_f1"] == pytest.approx(expected)
    found, (logits, held) = of(label_sample), label_sample(1)
    for name in ("raw", "prior_corrected"):
        decided = found.variants[name](2 * logits + SHIFT) > 0
        for average in ("micro", "macro"):
            expected = f1_score(held.toarray(), decided, average=average)
            assert found.summary["test"][name][f"{average}_f1"] == pytest.approx(expected)


def test_a_constant_shift_matters_to_labels_but_not_to_classes():
    constant = PriorShift("exact", np.full(5, 0.7))
    assert "prior_corrected" not in of(sample, 1.0, constant).variants
    assert "prior_corrected" in of(label_sample, 1.0, constant).variants


class TestAdjustment:
    def test_the_shift_is_subtracted_before_the_division(self):
        np.testing.assert_array_equal(Adjustment(np.array([1.0, -1.0]), 2.0)([[3, 3]]), [[1, 2]])

    def test_a_saved_adjustment_is_read_in_the_order_of_the_labels(self, tmp_path):
        found, path = of(sample), tmp_path / "calibration.json"
        found.save(path)
        content = json.loads(path.read_text(encoding="utf-8"))
        assert content == {
            "variant": "prior_corrected_temperature",
            "temperature": found.chosen.temperature,
            "shift": dict(zip(LABELS, SHIFT.tolist(), strict=True)),
        }
        order = [3, 0, 4, 2, 1]
        read = read_adjustment(path, [LABELS[i] for i in order])
        np.testing.assert_array_equal(read.shift, SHIFT[order])
        assert read.temperature == found.chosen.temperature

    def test_an_unused_shift_is_saved_as_zero(self, tmp_path):
        of(sample, 2.0, PriorShift(None, np.zeros(5))).save(tmp_path / "c.json")
        assert set(json.loads((tmp_path / "c.json").read_text())["shift"].values()) == {0}

    @pytest.mark.parametrize(
        ("content", "line"),
        [
            ("{", "not a calibration file"),
            ("[1]", "not a calibration file"),
            ('{"temperature": 1, "shift": [1, 2]}', "not a calibration file"),
            ('{"temperature": 1}', "'shift'"),
            ('{"temperature": 1, "shift": {"a": 0}}', "'b'"),
            ('{"temperature": 1, "shift": {"a": 0, "b": 0, "c": 0}}', "'c'"),
            ('{"temperature": 0, "shift": {"a": 0, "b": 0}}', "above 0"),
            ('{"temperature": "1", "shift": {"a": 0, "b": 0}}', "above 0"),
            ('{"temperature": 1, "shift": {"a": NaN, "b": 0}}', "finite"),
        ],
    )
    def test_an_invalid_file_is_a_one_line_error(self, tmp_path, content, line):
        path = tmp_path / "calibration.json"
        path.write_text(content)
        error = user_error(read_adjustment, path, ["a", "b"])
        assert line in error

    def test_a_missing_file_is_a_user_error(self, tmp_path):
        with pytest.raises(UserError, match="not calibrated"):
            read_adjustment(tmp_path / "calibration.json", ["a"])
