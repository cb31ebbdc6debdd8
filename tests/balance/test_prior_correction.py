"""Prior correction and post-hoc logit adjustment: shifts that restore or balance the class prior."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.special import expit, log_softmax, softmax
from scipy.stats import norm
from sklearn.metrics import balanced_accuracy_score

from counterpoise.balance import (
    LDAM,
    BinaryCrossEntropy,
    ClassIndex,
    Correction,
    CrossEntropy,
    EffectiveNumber,
    InverseFrequency,
    LogitAdjusted,
    ManualWeights,
    PowerSampler,
    RepeatFactorSampler,
    SoftmaxFocal,
    Strategy,
)
from counterpoise.balance.prior_correction import label_prior_shift, natural_prior_shift, post_hoc, prior_shift
from counterpoise.errors import UserError

TABLE = np.array([[500, 20, 1], [300, 60, 4], [150, 5, 9], [40, 15, 6]])
"""Number of texts by content (rows) and class (columns). Texts of equal content cannot be distinguished."""
LAWS = [(0, 0), (0, 0.5), (0, 1), (0.5, 0), (0.5, 0.5), (1, 0), (0.3, 0.2)]
"""Exponents alpha and beta of sampler and weights."""


def strategy(alpha: float = 0.0, beta: float = 0.0, **options) -> Strategy:
    return Strategy(PowerSampler(alpha), InverseFrequency(beta), **options)


def counting(counts: list[int], made: Strategy) -> Correction:
    index = ClassIndex.from_targets(np.repeat(np.arange(len(counts)), counts), len(counts))
    return made.correction([f"class {c}" for c in range(len(counts))], index)


def trained(loss: torch.nn.Module, correction: Correction, table: np.ndarray) -> np.ndarray:
    """Return the logits of least loss for each row of a table of texts, float64."""
    contents, classes = (torch.from_numpy(each) for each in np.indices(table.shape).reshape(2, -1))
    # The sampler draws the texts of a class equally often, whatever their content.
    drawn = torch.from_numpy((table * correction.sampling_probs / correction.counts).ravel())

    def risk(z: np.ndarray) -> tuple[float, np.ndarray]:
        logits = torch.from_numpy(z.reshape(table.shape)).requires_grad_()
        value = loss(logits[contents], classes, denominator=1.0, weights=drawn)
        (slopes,) = torch.autograd.grad(value, logits)
        return value.item(), slopes.numpy().ravel()

    return minimize(risk, np.zeros(table.size), jac=True, method="BFGS", options={"gtol": 1e-11}).x.reshape(table.shape)


class TestPriorShift:
    def test_a_small_example_worked_by_hand(self):
        # Class frequencies of 0.9 and 0.1, trained with equal priors: the odds of the rare class are 9 times too high.
        shift = prior_shift([0.5, 0.5], [90, 10])
        np.testing.assert_allclose(shift, np.log([0.5 / 0.9, 0.5 / 0.1]), rtol=1e-14)
        np.testing.assert_allclose(softmax(np.zeros(2) - shift), [0.9, 0.1], rtol=1e-14)
        np.testing.assert_allclose(prior_shift([5, 5], [90, 10]), shift, rtol=1e-14)

    @pytest.mark.parametrize("law", LAWS)
    def test_the_shift_is_alpha_plus_beta_times_the_log_counts(self, law):
        counts = np.array([2840, 206, 41, 1])
        shift = natural_prior_shift(counting([2840, 206, 41, 1], strategy(*law)))
        expected = -sum(law) * np.log(counts)
        np.testing.assert_allclose(shift - shift[0], expected - expected[0], atol=1e-10)

    def test_without_a_correction_the_shift_is_zero(self):
        np.testing.assert_allclose(natural_prior_shift(counting([90, 9, 1], strategy())), 0, atol=1e-14)

    @pytest.mark.parametrize(
        "made",
        [
            *[strategy(*law) for law in LAWS],
            strategy(1, 1, allow_overcorrection=True),
            strategy(0, 1, max_ratio=3),
            Strategy(PowerSampler(0.5, 40), EffectiveNumber(0.9)),
            Strategy(RepeatFactorSampler(0.4)),
            Strategy(weights=ManualWeights([1, 9, 7])),
        ],
        ids=lambda strategy: f"{strategy.sampler}, {strategy.weights}",
    )
    @pytest.mark.parametrize("make", [CrossEntropy, LogitAdjusted, lambda b: LogitAdjusted(b, tau=0.4)])
    def test_the_shift_restores_the_natural_posterior_of_a_trained_model(self, made, make):
        correction = counting(TABLE.sum(0).tolist(), made)
        loss = make(correction).double()
        logits = trained(loss, correction, TABLE)
        natural = logits - natural_prior_shift(correction, loss.effective_prior(correction))
        np.testing.assert_allclose(softmax(natural, axis=1), TABLE / TABLE.sum(1, keepdims=True), atol=2e-6)

    def test_without_the_shift_a_balanced_model_overpredicts_rare_classes(self):
        correction = counting(TABLE.sum(0).tolist(), strategy(0.5, 0.5))
        predicted = softmax(trained(CrossEntropy(correction).double(), correction, TABLE), axis=1)
        rows = TABLE.sum(1) / TABLE.sum()
        assert rows @ predicted[:, 2] > 5 * TABLE[:, 2].sum() / TABLE.sum()

    def test_the_shift_is_exact_for_two_gaussians(self):
        # x ~ N(-1, 1) in 99% and N(1, 1) in 1%: the balanced posterior is sigma(2 x), the natural sigma(2 x - log 99).
        x = np.linspace(-6, 6, 41)
        balanced = log_softmax(np.stack([norm(-1).logpdf(x), norm(1).logpdf(x)], 1), axis=1)
        np.testing.assert_allclose(softmax(balanced, axis=1)[:, 1], expit(2 * x), rtol=1e-10)
        shift = natural_prior_shift(counting([9900, 100], strategy(0.25, 0.75)))
        natural = 0.99 * norm(-1).pdf(x), 0.01 * norm(1).pdf(x)
        found = softmax(balanced - shift, axis=1)[:, 1]
        np.testing.assert_allclose(found, natural[1] / (natural[0] + natural[1]), rtol=1e-9)

    def test_the_shift_is_approximate_for_focal_loss(self):
        correction = counting(TABLE.sum(0).tolist(), strategy(0.5, 0.5))
        logits = trained(SoftmaxFocal(correction).double(), correction, TABLE)
        rows, natural = TABLE.sum(1) / TABLE.sum(), TABLE.sum(0) / TABLE.sum()
        before = np.abs(rows @ softmax(logits, axis=1) - natural).sum()
        after = np.abs(rows @ softmax(logits - natural_prior_shift(correction), axis=1) - natural).sum()
        assert after < before / 2

    def test_no_shift_restores_the_posterior_of_ldam(self):
        # The more frequent class wins by its whole margin, however small its majority.
        correction = counting([505, 495], strategy())
        logits = trained(LDAM(correction).double(), correction, np.array([[505, 495]]))
        assert logits[0, 0] - logits[0, 1] > 10

    def test_classes_without_training_examples_are_not_shifted(self):
        shift = prior_shift([0.5, 0, 0.5, 0], [90, 0, 10, 5])
        np.testing.assert_allclose(shift, [np.log(0.5 / (90 / 105)), 0, np.log(0.5 / (10 / 105)), 0])
        np.testing.assert_array_equal(prior_shift([1, 1], [0, 0]), 0)
        np.testing.assert_array_equal(prior_shift([1], [7]), 0)

    def test_mismatched_arguments_are_an_error(self):
        for effective_prior, counts in [
            ([1, 2], [1, 2, 3]),
            ([], []),
            ([[1]], [[1]]),
            ([-1, 2], [1, 1]),
            ([1, np.nan], [1, 1]),
        ]:
            with pytest.raises(ValueError, match=r"effective.prior"):
                prior_shift(effective_prior, counts)


class TestOddsShift:
    @staticmethod
    def correction(made: Strategy, texts: np.ndarray) -> Correction:
        index = ClassIndex.from_targets(csr_matrix(texts.astype(bool)), texts.shape[1])
        return made.correction([f"label {c}" for c in range(texts.shape[1])], index)

    def test_a_small_example_worked_by_hand(self):
        # 10 of 100 texts, 1/4 of the draws, positives of 6 times the weight of negatives: odds 1/9, 1/3, 2.
        shift = label_prior_shift([0.25], [3.0], [0.5], [10], 100)
        np.testing.assert_allclose(shift, np.log(18), rtol=1e-14)
        np.testing.assert_allclose(expit(np.log(2) - shift), 0.1, rtol=1e-12)

    def test_the_shift_of_weights_is_exact(self):
        # One label and 4 contents: 1, 5, 30 and 2 of their texts have the label; with and without a limit.
        holds, texts = np.array([1, 5, 30, 2]), np.array([400, 100, 60, 3])
        y = np.concatenate([np.arange(n) < h for h, n in zip(holds, texts, strict=True)])[:, None]
        for max_ratio in (10.0, None):
            correction = self.correction(strategy(0, 1, max_ratio=max_ratio), y)
            # The optimum of weighted binary cross-entropy: the log of the ratio of the weighted sides.
            logits = np.log(holds * correction.class_weights[0] / ((texts - holds) * correction.negative_weights[0]))
            np.testing.assert_allclose(expit(logits - natural_prior_shift(correction)), holds / texts, rtol=1e-12)

    def test_the_shift_of_a_sampler_over_one_label_is_exact(self):
        holds, texts = np.array([1, 5, 30, 2]), np.array([400, 100, 60, 3])
        contents = np.repeat(np.arange(4), texts)
        y = np.concatenate([np.arange(n) < h for h, n in zip(holds, texts, strict=True)])[:, None]
        for made in (strategy(1), strategy(0.5, 0.5), Strategy(RepeatFactorSampler(0.5), InverseFrequency(0.3))):
            correction = self.correction(made, y)
            weights = (
                correction.draws_per_row * np.where(y, correction.class_weights, correction.negative_weights)[:, 0]
            )
            mass = np.bincount(contents, weights * y[:, 0]), np.bincount(contents, weights * ~y[:, 0])
            logits = np.log(mass[0] / mass[1])
            np.testing.assert_allclose(expit(logits - natural_prior_shift(correction)), holds / texts, rtol=1e-9)

    def test_the_shift_restores_the_label_frequency_from_the_best_constant(self):
        rng = np.random.default_rng(0)
        texts = rng.random((500, 4)) < [0.5, 0.2, 0.05, 0.01]
        for law in LAWS:
            correction = self.correction(strategy(*law), texts)
            best = BinaryCrossEntropy(correction).initial_logits(correction)
            np.testing.assert_allclose(expit(best - natural_prior_shift(correction)), texts.mean(0), rtol=1e-9)

    def test_labels_of_no_text_or_all_texts_are_shifted_by_weights_only(self):
        texts = np.stack([np.zeros(6), np.ones(6), np.arange(6) < 2], 1)
        correction = self.correction(strategy(0.5, 0.5), texts)
        shift = natural_prior_shift(correction)
        assert np.isfinite(shift).all()
        np.testing.assert_allclose(shift[:2], np.log(correction.class_weights / correction.negative_weights)[:2])

    def test_mismatched_arguments_are_an_error(self):
        with pytest.raises(ValueError, match="sampling_probs"):
            label_prior_shift([0.5], [1, 1], [1, 1], [1, 1], 2)
        with pytest.raises(ValueError, match="effective_prior"):
            natural_prior_shift(self.correction(strategy(), np.eye(2)), np.ones(2))


class TestPostHoc:
    def test_a_small_example_worked_by_hand(self):
        adjusted = post_hoc(np.log([[0.8, 0.2], [0.95, 0.05]]), [0.9, 0.1])
        np.testing.assert_allclose(np.exp(adjusted), [[0.8 / 0.9, 2], [0.95 / 0.9, 0.5]])
        np.testing.assert_array_equal(adjusted.argmax(1), [1, 0])
        np.testing.assert_allclose(np.exp(post_hoc(np.zeros((1, 2)), [4, 1], 0.5))[0, 1], 5**0.5)

    def test_tau_0_changes_nothing_and_inputs_are_not_modified(self):
        logits = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
        kept = logits.copy()
        np.testing.assert_array_equal(post_hoc(logits, [0.7, 0.2, 0.1], 0), logits)
        assert post_hoc(logits, [0.7, 0.2, 0.1]).dtype == np.float64
        np.testing.assert_array_equal(logits, kept)

    def test_post_hoc_adjustment_of_a_plain_model_equals_the_adjusted_loss(self):
        plain, counts = counting(TABLE.sum(0).tolist(), strategy()), TABLE.sum(0)
        after = post_hoc(trained(CrossEntropy(plain).double(), plain, TABLE), plain.effective_prior)
        within = trained(LogitAdjusted(plain).double(), plain, TABLE)
        np.testing.assert_allclose(softmax(after, axis=1), softmax(within, axis=1), atol=2e-6)
        balanced = TABLE / counts
        np.testing.assert_allclose(softmax(after, axis=1), balanced / balanced.sum(1, keepdims=True), atol=2e-6)

    @pytest.mark.parametrize("law", LAWS)
    def test_post_hoc_adjustment_by_the_effective_prior_gives_the_balanced_posterior(self, law):
        correction, counts = counting(TABLE.sum(0).tolist(), strategy(*law)), TABLE.sum(0)
        after = post_hoc(trained(CrossEntropy(correction).double(), correction, TABLE), correction.effective_prior)
        balanced = TABLE / counts
        np.testing.assert_allclose(softmax(after, axis=1), balanced / balanced.sum(1, keepdims=True), atol=2e-6)

    def test_tau_1_is_best_for_balanced_accuracy(self):
        logits = np.log(TABLE / TABLE.sum(1, keepdims=True))
        classes = np.repeat(np.tile(np.arange(3), 4), TABLE.ravel())

        def score(adjusted: np.ndarray) -> float:
            return balanced_accuracy_score(classes, np.repeat(adjusted.argmax(1), TABLE.sum(1)))

        best = 0.0
        for rule in np.ndindex(3, 3, 3, 3):
            best = max(best, score(np.eye(3)[list(rule)]))
        assert score(post_hoc(logits, TABLE.sum(0))) == best > score(logits)

    def test_a_class_without_prior_is_adjusted_like_the_rarest(self):
        adjusted = post_hoc(np.zeros((1, 3)), [0.9, 0.1, 0])
        assert np.isfinite(adjusted).all()
        assert adjusted[0, 2] == adjusted[0, 1]

    def test_a_tau_above_1_needs_allow_overcorrection(self):
        with pytest.raises(UserError, match="upside down") as error:
            post_hoc(np.zeros((1, 2)), [0.9, 0.1], 1.5)
        assert "\n" not in str(error.value)
        post_hoc(np.zeros((1, 2)), [0.9, 0.1], 1.5, allow_overcorrection=True)
        for tau in (-1, np.nan, np.inf):
            with pytest.raises(UserError, match="tau="):
                post_hoc(np.zeros((1, 2)), [0.9, 0.1], tau, allow_overcorrection=True)

    def test_mismatched_arguments_are_an_error(self):
        for prior in ([1, 1, 1], [0, 0], [-1, 2], [np.nan, 1]):
            with pytest.raises(ValueError, match="prior"):
                post_hoc(np.zeros((1, 2)), prior)
