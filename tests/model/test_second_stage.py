from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.special import expit, log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, recall_score
from torch import nn

from counterpoise.balance import (
    LDAM,
    BinaryCrossEntropy,
    ClassIndex,
    CrossEntropy,
    InverseFrequency,
    PowerSampler,
    Strategy,
    cross_entropy,
)
from counterpoise.balance.prior_correction import natural_prior_shift, post_hoc
from counterpoise.model.heads import CosineHead
from counterpoise.model.second_stage import FirstStage, PostHoc, Retrained, SecondStageResult, TauNormalised
from refusals import user_error

COUNTS = np.array([400, 120, 30])
MEANS = np.array([[0.0, 0.0, 1.0], [1.2, 0.0, -0.5], [0.4, 1.5, 0.0]])
CLASSES = np.repeat(np.arange(3), COUNTS)
PLAIN = Strategy()


def drawn(classes: np.ndarray, seed: int) -> np.ndarray:
    """Vectors of texts, normal around the mean of their class with unit covariance."""
    return (MEANS[classes] + np.random.default_rng(seed).normal(size=(len(classes), 3))).astype(np.float32)


VECTORS = {"train": drawn(CLASSES, 0), "validation": drawn(CLASSES, 1)}
TARGETS = {"train": CLASSES, "validation": CLASSES}
# Each label is more probable where its own coordinate is large.
TAGS = {
    split: csr_matrix(np.random.default_rng(5).random((550, 3)) < 1 / (1 + np.exp([0.0, 1.5, 3.0] - 1.5 * vectors)))
    for split, vectors in VECTORS.items()
}


def macro_recall(logits: np.ndarray, targets) -> float:
    return recall_score(targets, logits.argmax(1), average="macro")


def head_of(weight: np.ndarray, bias: np.ndarray) -> nn.Linear:
    head = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        head.weight.copy_(torch.as_tensor(weight))
        head.bias.copy_(torch.as_tensor(bias))
    return head


def bayes(shares: np.ndarray) -> nn.Linear:
    """The head whose softmax is the posterior where the classes have these shares: linear discriminant analysis."""
    return head_of(MEANS, np.log(shares) - (MEANS**2).sum(1) / 2)


def after(strategy: Strategy = PLAIN, targets=TARGETS, weights: np.ndarray | None = None, **given) -> FirstStage:
    """What a training to the optimum leaves."""
    index = ClassIndex.from_targets(targets["train"], 3, weights)
    correction = strategy.correction(list("abc"), index)
    left = {
        "head": bayes(correction.effective_prior),
        "embeddings": VECTORS.__getitem__,
        "targets": targets,
        "correction": correction,
        "effective_prior": None if correction.multi_label else strategy.loss(correction).effective_prior(correction),
        "score": macro_recall,
        "dropout": 0.0,
        "seed": 0,
    }
    return FirstStage(**(left | given))


def logits_of(head: nn.Linear, split: str = "validation") -> np.ndarray:
    with torch.no_grad():
        return head(torch.from_numpy(VECTORS[split])).numpy().astype(np.float64)


STRATEGIES = {
    "plain": PLAIN,
    "square_root": Strategy(weights=InverseFrequency(0.5)),
    "half sampled": Strategy(PowerSampler(0.5)),
    "balanced": Strategy(PowerSampler(0.5), InverseFrequency(0.5)),
}
after_every = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)


class TestPostHoc:
    """The log prior is subtracted from the logits."""

    @after_every
    @pytest.mark.parametrize("tau", [0.0, 0.3, 1.0])
    def test_the_logits_are_those_of_logit_adjustment(self, strategy, tau):
        first = after(strategy)
        refined = PostHoc(tau)(first)
        expected = post_hoc(logits_of(first.head), first.effective_prior, tau)
        np.testing.assert_allclose(logits_of(refined.head), expected, atol=1e-5)
        assert refined.settings == {"tau": tau}

    @after_every
    @pytest.mark.parametrize("tau", [0.0, 0.3, 1.0])
    def test_the_shift_restores_the_natural_distribution(self, strategy, tau):
        refined = PostHoc(tau)(after(strategy))
        posterior = softmax(logits_of(bayes(COUNTS / COUNTS.sum())), axis=1)
        np.testing.assert_allclose(softmax(logits_of(refined.head) - refined.shift, axis=1), posterior, atol=1e-5)

    @after_every
    def test_tau_1_gives_the_posterior_of_balanced_classes(self, strategy):
        decided = logits_of(PostHoc()(after(strategy)).head)
        np.testing.assert_allclose(
            softmax(decided, axis=1), softmax(logits_of(bayes(np.full(3, 1 / 3))), axis=1), atol=1e-5
        )

    def test_only_the_bias_of_a_copy_of_the_head_changes(self):
        first = after()
        weight, bias = first.head.weight.clone(), first.head.bias.clone()
        refined = PostHoc()(first)
        assert torch.equal(refined.head.weight, weight)
        assert torch.equal(first.head.weight, weight)
        assert torch.equal(first.head.bias, bias)
        assert not torch.equal(refined.head.bias, bias)

    @pytest.mark.parametrize("tau", [-0.1, 1.1, "best", float("nan"), float("inf"), True, None])
    def test_an_invalid_tau_is_refused(self, tau):
        assert f"strategy.second_stage.tau={tau}: use" in user_error(PostHoc, tau)

    def test_a_loss_whose_logits_have_no_known_prior_is_refused(self):
        correction = after().correction
        smooth = CrossEntropy(correction, label_smoothing=0.1)
        PostHoc().check(correction, smooth, nn.Linear(2, 2))  # an approximate prior is enough
        unscaled = LDAM(correction)
        assert "known prior" in user_error(PostHoc().check, correction, unscaled, nn.Linear(2, 2))


class TestTauNormalised:
    """Class vectors are scaled to similar norms."""

    def test_a_small_example_worked_by_hand(self):
        head = head_of(np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 0.25], [1.0, 0.0, 0.0]]), np.array([1.0, 2.0, 3.0]))
        made = TauNormalised(0.5)(after(head=head)).head
        expected = np.array([[3 / 5**0.5, 4 / 5**0.5, 0], [0, 0, 0.5], [1, 0, 0]])
        np.testing.assert_allclose(made.weight.detach(), expected, rtol=1e-6)
        assert not made.bias.any()

    def test_tau_0_removes_only_the_bias(self):
        first = after()
        refined = TauNormalised(0)(first)
        assert torch.equal(refined.head.weight, first.head.weight)
        np.testing.assert_allclose(logits_of(refined.head), VECTORS["validation"] @ MEANS.T, atol=1e-5)

    def test_tau_1_gives_norms_of_1(self):
        refined = TauNormalised(1.0)(after())
        np.testing.assert_allclose(refined.head.weight.detach().norm(dim=1), 1, rtol=1e-6)

    def test_a_class_vector_of_norm_0_stays_0(self):
        made = TauNormalised(2.0)(after(head=head_of(np.diag([0.0, 1.0, 2.0]), np.zeros(3)))).head
        np.testing.assert_allclose(made.weight.detach(), np.diag([0.0, 1.0, 0.5]), rtol=1e-6)

    def test_the_first_head_is_not_modified_and_the_shift_is_unknown(self):
        first = after()
        before = [each.clone() for each in first.head.parameters()]
        assert TauNormalised(1.0)(first).shift is None
        assert all(map(torch.equal, first.head.parameters(), before))

    @pytest.mark.parametrize("tau", [-0.1, "best", float("nan"), float("inf"), True])
    def test_an_invalid_tau_is_refused(self, tau):
        assert f"strategy.second_stage.tau={tau}: use" in user_error(TauNormalised, tau)
        TauNormalised(1.5)


GRIDS = [(PostHoc, np.arange(11) / 10), (TauNormalised, np.arange(21) / 10)]


@pytest.mark.parametrize(("stage", "grid"), GRIDS, ids=["post_hoc", "tau_normalised"])
class TestAuto:
    """The tau with the best score on the validation split."""

    def test_the_tau_with_the_best_score_is_chosen(self, stage, grid):
        first = after(head=head_of(MEANS * [[2.0], [1.0], [0.5]], np.log(COUNTS / COUNTS.sum())))
        scores = [macro_recall(logits_of(stage(float(tau))(first).head), CLASSES) for tau in grid]
        assert len(set(scores)) > 3
        refined = stage("auto")(first)
        assert refined.settings == {"tau": grid[int(np.argmax(scores))]}
        assert macro_recall(logits_of(refined.head), CLASSES) == max(scores)

    def test_the_given_score_decides(self, stage, grid):
        for highest in (4, len(grid) - 1):
            made = [logits_of(stage(float(tau))(after()).head) for tau in grid]

            def score(logits, targets, wanted=made[highest]):
                return -np.abs(logits - wanted).max()

            assert stage("auto")(after(score=score)).settings == {"tau": grid[highest]}

    def test_the_first_of_equal_scores_is_chosen(self, stage, grid):
        assert stage("auto")(after(score=lambda logits, targets: 1.0)).settings == {"tau": 0.0}

    def test_tau_is_chosen_on_the_validation_split(self, stage, grid):
        seen = []
        first = after(embeddings=lambda split: seen.append(split) or VECTORS[split])
        stage("auto")(first)
        stage(0.5)(first)
        assert seen == ["validation"]

    def test_multi_label_data_is_refused(self, stage, grid):
        correction = after(targets=TAGS).correction
        message = user_error(stage().check, correction, BinaryCrossEntropy(correction), nn.Linear(2, 2))
        assert message.startswith("strategy.second_stage: ")
        assert "is for single-label data" in message

    def test_a_cosine_head_is_refused_and_a_linear_head_accepted(self, stage, grid):
        correction = after().correction
        assert "strategy.second_stage" in user_error(stage().check, correction, LDAM(correction), CosineHead(2, 2))
        stage().check(correction, CrossEntropy(correction), nn.Linear(2, 2))


THOROUGH = Retrained(epochs=40, lr=0.05, batch_size=64)


def above_the_least_loss(head: nn.Linear, weights: np.ndarray) -> float:
    """Return its weighted cross-entropy on the training texts minus that of the logistic regression."""
    reference = LogisticRegression(C=np.inf, tol=1e-8).fit(VECTORS["train"], CLASSES, sample_weight=weights)
    best = log_loss(CLASSES, reference.predict_proba(VECTORS["train"]), sample_weight=weights)
    return log_loss(CLASSES, softmax(logits_of(head, "train"), axis=1), sample_weight=weights) - best


class TestRetrained:
    """A new head is trained with class-balanced sampling."""

    def test_the_new_head_is_a_logistic_regression_of_balanced_classes(self):
        head = THOROUGH(after()).head
        assert 0 < above_the_least_loss(head, 1 / COUNTS[CLASSES]) < 1e-3
        assert above_the_least_loss(head, np.ones(550)) > 0.1
        balanced = LogisticRegression(class_weight="balanced", C=np.inf).fit(VECTORS["train"], CLASSES)
        ours = log_softmax(logits_of(head), axis=1)
        np.testing.assert_allclose(ours, balanced.predict_log_proba(VECTORS["validation"]), atol=0.3)

    def test_instance_weights_weight_the_loss_of_the_new_head(self):
        weights = np.where(VECTORS["train"][:, 0] > 0.5, 3.0, 0.2)
        weights /= weights.mean()
        free = Strategy(allow_overcorrection=True)
        head = replace(THOROUGH, allow_overcorrection=True)(after(free, weights=weights)).head
        assert 0 < above_the_least_loss(head, weights / COUNTS[CLASSES]) < 1e-3
        assert above_the_least_loss(THOROUGH(after()).head, weights / COUNTS[CLASSES]) > 5e-3

    def test_instance_weights_are_part_of_the_prior_of_the_new_head(self):
        weights = np.array([1.0, 1.5, 4.0])[CLASSES]
        refined = Retrained(PowerSampler(0.0), epochs=40, lr=0.05, batch_size=64)(after(weights=weights))
        mass = COUNTS * [1.0, 1.5, 4.0]
        np.testing.assert_allclose(refined.shift, np.log(mass / mass.sum()) - np.log(COUNTS / 550), rtol=1e-10)
        assert refined.shift_quality == "exact"
        assert 0 < above_the_least_loss(refined.head, weights) < 1e-3
        message = user_error(Retrained(PowerSampler(1.0)).check, after(weights=weights).correction, None, None)
        assert "data.weight" in message
        mixed = Retrained(PowerSampler(0.0), epochs=1)(after(weights=np.random.default_rng(0).uniform(1, 2, 550)))
        assert mixed.shift_quality == "approximate"

    def test_the_sampler_decides_which_texts_the_new_head_is_trained_on(self):
        plain = Retrained(PowerSampler(0.0), epochs=40, lr=0.05, batch_size=64)(after())
        assert 0 < above_the_least_loss(plain.head, np.ones(550)) < 1e-3
        np.testing.assert_allclose(plain.shift, 0, atol=1e-12)

    def test_multi_label_heads_are_one_logistic_regression_per_label(self):
        first = after(targets=TAGS)
        logits = logits_of(THOROUGH(first).head, "train")
        rates = PowerSampler(1.0).draws_per_row(first.correction.index)
        for c, held in enumerate(TAGS["train"].toarray().T):
            reference = LogisticRegression(C=np.inf, tol=1e-8).fit(VECTORS["train"], held, sample_weight=rates)
            best = log_loss(held, reference.predict_proba(VECTORS["train"]), sample_weight=rates)
            assert 0 < log_loss(held, expit(logits[:, c]), sample_weight=rates) - best < 1e-3
            unsampled = LogisticRegression(C=np.inf).fit(VECTORS["train"], held).decision_function(VECTORS["train"])
            assert log_loss(held, expit(unsampled), sample_weight=rates) - best > 1e-3

    @pytest.mark.parametrize("targets", [TARGETS, TAGS], ids=["single_label", "multi_label"])
    def test_the_shift_follows_the_sampler_of_the_new_head(self, targets):
        # The correction of the first stage does not affect the new head.
        first = after(Strategy(weights=InverseFrequency(0.5)), targets)
        expected = natural_prior_shift(Strategy(PowerSampler(1.0)).correction(list("abc"), first.correction.index))
        refined = Retrained(epochs=1)(first)
        np.testing.assert_allclose(refined.shift, expected, rtol=1e-12)
        if targets is TARGETS:
            np.testing.assert_allclose(refined.shift, np.log(550 / 3 / COUNTS), rtol=1e-12)
        assert refined.settings == {"epochs": 1, "steps": 5}  # 550 texts in steps of 128

    def test_the_result_depends_on_the_seed_only_and_nothing_else_changes(self):
        first = after(dropout=0.3)
        before = [each.clone() for each in first.head.parameters()]
        state = torch.get_rng_state()

        def made(**given) -> torch.Tensor:
            return Retrained(epochs=1)(replace(first, **given)).head.weight.detach()

        one = made()
        torch.rand(5)
        assert torch.equal(made(), one)
        torch.set_rng_state(state)
        assert torch.equal(made(), one)
        assert torch.equal(torch.get_rng_state(), state)
        assert not torch.equal(made(seed=1), one)
        assert not torch.equal(made(dropout=0.0), one)
        assert all(map(torch.equal, first.head.parameters(), before))

    @pytest.mark.parametrize("targets", [TARGETS, TAGS], ids=["single_label", "multi_label"])
    def test_any_first_head_is_accepted(self, targets):
        correction = after(targets=targets).correction
        Retrained().check(correction, cross_entropy(correction), nn.Identity())

    def test_a_cosine_head_is_replaced_by_a_linear_head(self):
        refined = Retrained(epochs=1)(after(head=CosineHead(3, 3, 30.0), effective_prior=None))
        assert isinstance(refined, SecondStageResult)
        assert refined.head.bias is not None

    @pytest.mark.parametrize(
        ("setting", "value", "rule"),
        [
            *(("epochs", value, "a whole number") for value in (0, -1, 1.5, "10")),
            *(("batch_size", value, "a whole number") for value in (0, 0.5)),
            *(("lr", value, "a number above 0") for value in (0, -1e-3, "fast", float("nan"), True)),
        ],
    )
    def test_invalid_settings_are_refused(self, setting, value, rule):
        assert f"strategy.second_stage.{setting}={value}: use {rule}" in user_error(Retrained, **{setting: value})
