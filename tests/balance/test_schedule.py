import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from counterpoise.balance import (
    LDAM,
    ClassIndex,
    Correction,
    Deferred,
    EffectiveNumber,
    InverseFrequency,
    LogitAdjusted,
    MixtureSampler,
    PowerSampler,
    Progressive,
    RepeatFactorSampler,
    Strategy,
)
from refusals import user_error

COUNTS = np.array([500, 60, 25, 4])
INDEX = ClassIndex.from_targets(np.repeat(np.arange(4), COUNTS), 4)
# Labels with 300 texts, 60, 9 and 1, independently of each other.
TAGS = csr_matrix(np.stack([np.random.default_rng(c).permutation(400) < n for c, n in enumerate([300, 60, 9, 1])], 1))
LABEL_INDEX = ClassIndex.from_targets(TAGS, 4)
LABELS = list("abcd")
every_task = pytest.mark.parametrize("index", [INDEX, LABEL_INDEX], ids=["single_label", "multi_label"])

PROGRESSIVE = Strategy(PowerSampler(1.0), schedule=Progressive())
ARRAYS = ("draws_per_row", "sampling_probs", "class_weights", "negative_weights", "capped")


def strengths(schedule, epochs: int) -> list[float]:
    return [schedule.strength(epoch, epochs) for epoch in range(epochs)]


def assert_same(one: Correction, other: Correction, rtol: float = 0.0) -> None:
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=rtol, atol=0)
    assert one.epoch_size == other.epoch_size


class TestDeferred:
    """Nothing, then everything."""

    def test_the_last_40_of_200_epochs_are_corrected_as_in_the_paper(self):
        assert strengths(Deferred(), 200) == [0.0] * 160 + [1.0] * 40

    def test_the_start_may_be_an_epoch_or_a_fraction_of_the_epochs(self):
        assert strengths(Deferred(3), 5) == [0, 0, 0, 1, 1]
        assert strengths(Deferred(1.0), 3) == [0, 1, 1]
        assert strengths(Deferred(0.5), 4) == [0, 0, 1, 1]
        assert strengths(Deferred(0.8), 5) == [0, 0, 0, 0, 1]

    @given(start=st.floats(0, 1, exclude_min=True, exclude_max=True), epochs=st.integers(2, 300))
    def test_a_fraction_leaves_at_least_one_epoch_without_and_one_with_correction(self, start, epochs):
        values = strengths(Deferred(start), epochs)
        assert set(values) == {0.0, 1.0}
        assert values == sorted(values)
        before = values.count(0.0)
        assert abs(before - start * epochs) <= 0.5 or before in (1, epochs - 1)

    @pytest.mark.parametrize("start", [0, -0.5, 1.5, -3, True, float("nan"), float("inf"), "late", None])
    def test_an_invalid_start_is_refused(self, start):
        message = user_error(Deferred, start)
        assert f"strategy.schedule.start={start}" in message

    @pytest.mark.parametrize("start", [5, 8])
    def test_a_start_after_the_last_epoch_is_refused(self, start):
        message = user_error(Strategy(schedule=Deferred(start)).fit, LABELS, INDEX, 5)
        assert f"strategy.schedule.start={start} is never reached: trainer.max_epochs=5" in message
        Strategy(schedule=Deferred(start)).fit(LABELS, INDEX, start + 1)


class TestProgressive:
    """From nothing to everything in equal steps."""

    @pytest.mark.parametrize("epochs", [2, 3, 10, 90])
    def test_the_strength_rises_in_equal_steps_from_0_to_1(self, epochs):
        np.testing.assert_allclose(strengths(Progressive(), epochs), np.linspace(0, 1, epochs), rtol=1e-15)
        assert strengths(Progressive(), epochs)[-1] == 1.0

    @pytest.mark.parametrize("epochs", [2, 5, 90])
    def test_classes_are_drawn_from_the_mixture_of_natural_and_balanced_sampling(self, epochs):
        # Kang et al., ICLR 2020, eq. 3, with t / T from 0 to 1 as the authors' code has it.
        fitted = PROGRESSIVE.fit(LABELS, INDEX, epochs)
        instance_balanced, class_balanced = COUNTS / COUNTS.sum(), np.full(4, 1 / 4)
        for epoch, t in enumerate(np.linspace(0, 1, epochs)):
            expected = (1 - t) * instance_balanced + t * class_balanced
            np.testing.assert_allclose(fitted.at_epoch(epoch).correction.sampling_probs, expected, rtol=1e-13)
            drawn = fitted.at_epoch(epoch).sampler.draw(INDEX, np.random.default_rng(epoch))
            assert len(drawn) == COUNTS.sum()

    def test_labels_are_drawn_from_the_mixture_too(self):
        fitted = PROGRESSIVE.fit(LABELS, LABEL_INDEX, 4)
        plain, aware = (PowerSampler(alpha).draws_per_row(LABEL_INDEX) @ TAGS.toarray() / 400 for alpha in (0.0, 1.0))
        for epoch in range(4):
            expected = (1 - epoch / 3) * plain + epoch / 3 * aware
            np.testing.assert_allclose(fitted.at_epoch(epoch).correction.sampling_probs, expected, rtol=1e-12)

    def test_drawn_rows_follow_the_strength(self):
        fitted = PROGRESSIVE.fit(LABELS, INDEX, 3)
        rarest = [
            np.mean(
                [np.isin(fitted.at_epoch(epoch).sampler.draw(INDEX, rng), INDEX.members(3)).sum() for _ in range(400)]
            )
            for epoch, rng in enumerate(np.random.default_rng(0).spawn(3))
        ]
        np.testing.assert_allclose(rarest, [4, (4 + 589 / 4) / 2, 589 / 4], atol=1)


class TestStrength:
    """How much of the correction is in force."""

    @every_task
    @pytest.mark.parametrize("strength", [0.0, 0.25, 0.5, 1.0])
    @pytest.mark.parametrize("beta", [0.5, 1.0])
    def test_inverse_frequency_weights_have_the_exponent_times_the_strength(self, index, strength, beta):
        partly = Strategy(weights=InverseFrequency(beta), max_ratio=None).correction(LABELS, index, strength)
        assert_same(
            partly, Strategy(weights=InverseFrequency(strength * beta), max_ratio=None).correction(LABELS, index), 1e-12
        )

    def test_any_weights_are_raised_to_the_strength_and_normalised(self):
        scheme = EffectiveNumber(0.99)
        correction = Strategy(weights=scheme).correction(LABELS, INDEX, 0.3)
        raised = ((1 - 0.99) / (1 - 0.99**COUNTS)) ** 0.3
        np.testing.assert_allclose(correction.class_weights, raised / (raised @ COUNTS / COUNTS.sum()), rtol=1e-10)
        assert correction.sampling_probs @ correction.class_weights == pytest.approx(1, rel=1e-12)

    @every_task
    @pytest.mark.parametrize("strength", [0.25, 0.75])
    def test_weights_have_mean_1_over_drawn_examples_at_any_strength(self, index, strength):
        correction = Strategy(PowerSampler(0.5), InverseFrequency(0.5)).correction(LABELS, index, strength)
        positive = correction.sampling_probs * correction.class_weights
        if index.multi_label:
            np.testing.assert_allclose(
                positive + (1 - correction.sampling_probs) * correction.negative_weights, 1, rtol=1e-12
            )
        else:
            assert positive.sum() == pytest.approx(1, rel=1e-12)

    def test_the_limit_applies_to_the_weights_in_force(self):
        capped = Strategy(weights=InverseFrequency(1.0), max_ratio=10)  # 125 between the largest and the smallest
        assert capped.correction(LABELS, INDEX, 0.25).weight_ratio == pytest.approx(125**0.25)
        assert capped.correction(LABELS, INDEX, 0.75).weight_ratio == pytest.approx(10)

    @every_task
    def test_strength_0_is_no_correction(self, index):
        correction = Strategy(PowerSampler(0.5, "median"), InverseFrequency(0.5)).correction(LABELS, index, 0.0)
        np.testing.assert_allclose(correction.sampling_probs, index.counts / index.num_rows, rtol=1e-12)
        np.testing.assert_allclose(correction.draws_per_row, correction.epoch_size / index.num_rows, rtol=1e-12)
        np.testing.assert_allclose([correction.class_weights, correction.negative_weights], 1, rtol=1e-15)
        assert correction.epoch_size == PowerSampler(0.5, "median").size(index)
        assert not correction.capped.any()

    def test_the_effective_prior_moves_from_the_frequencies_to_that_of_the_strategy(self):
        fitted = Strategy(PowerSampler(0.5), InverseFrequency(0.5), schedule=Progressive()).fit(LABELS, INDEX, 5)
        roots = COUNTS**0.5
        for epoch, s in enumerate([0, 0.25, 0.5, 0.75, 1]):
            mass = ((1 - s) * COUNTS / COUNTS.sum() + s * roots / roots.sum()) * COUNTS ** (-0.5 * s)
            np.testing.assert_allclose(fitted.at_epoch(epoch).correction.effective_prior, mass / mass.sum(), rtol=1e-12)
        np.testing.assert_allclose(fitted.at_epoch(0).correction.effective_prior, COUNTS / COUNTS.sum(), rtol=1e-12)
        np.testing.assert_allclose(fitted.final.correction.effective_prior, 1 / 4, rtol=1e-12)


class TestFittedStrategy:
    """What a strategy comes to, epoch by epoch."""

    @every_task
    @pytest.mark.parametrize("epochs", [None, -1, 1, 7])
    def test_without_a_schedule_every_epoch_has_the_full_correction(self, index, epochs):
        strategy = Strategy(PowerSampler(0.5), InverseFrequency(0.5))
        fitted = strategy.fit(LABELS, index, epochs)
        for epoch in (0, 1, 6, 1000):
            assert_same(fitted.at_epoch(epoch).correction, strategy.correction(LABELS, index))
            assert fitted.at_epoch(epoch).sampler is strategy.sampler
            assert fitted.at_epoch(epoch).loss is fitted.at_epoch(0).loss
        assert fitted.at_epoch(0).correction is fitted.final.correction

    @every_task
    @pytest.mark.parametrize("schedule", [Deferred(0.5), Progressive()], ids=str)
    def test_the_last_epoch_and_later_ones_have_the_full_correction(self, schedule, index):
        strategy = Strategy(RepeatFactorSampler(0.1), InverseFrequency(0.5), schedule=schedule)
        fitted = strategy.fit(LABELS, index, 4)
        for correction in (fitted.final.correction, fitted.at_epoch(3).correction, fitted.at_epoch(10).correction):
            assert_same(correction, strategy.correction(LABELS, index))
        assert fitted.at_epoch(3).sampler is strategy.sampler
        assert fitted.at_epoch(0).sampler == MixtureSampler(strategy.sampler, 0.0)

    def test_epochs_of_equal_strength_share_the_loss(self):
        fitted = Strategy(weights=InverseFrequency(1.0), schedule=Deferred(2)).fit(LABELS, INDEX, 5)
        before, after = fitted.at_epoch(0).loss, fitted.at_epoch(2).loss
        assert fitted.at_epoch(4).loss is after
        assert before is not after
        np.testing.assert_array_equal(before.class_weights, 1)
        np.testing.assert_allclose(after.class_weights, fitted.final.correction.class_weights, rtol=1e-6)
        fitted = PROGRESSIVE.fit(LABELS, INDEX, 3)
        assert len({fitted.at_epoch(epoch).loss for epoch in range(3)}) == 3

    def test_epochs_can_be_requested_in_any_order(self):
        fitted = Strategy(PowerSampler(0.5), InverseFrequency(0.5), schedule=Progressive()).fit(LABELS, INDEX, 5)
        in_order = [fitted.at_epoch(epoch).correction for epoch in range(5)]
        for epoch in (3, 0, 4, 2, 3):
            assert_same(fitted.at_epoch(epoch).correction, in_order[epoch])
            np.testing.assert_allclose(
                fitted.at_epoch(epoch).loss.class_weights, in_order[epoch].class_weights, rtol=1e-6
            )

    def test_margins_are_in_force_from_the_first_epoch(self):
        fitted = Strategy(weights=InverseFrequency(1.0), loss=LDAM, schedule=Deferred()).fit(LABELS, INDEX, 5)
        first, last = fitted.at_epoch(0).loss, fitted.at_epoch(4).loss
        np.testing.assert_array_equal(first.margins, last.margins)
        assert first.margins.max() == 0.5
        np.testing.assert_array_equal(first.class_weights, 1)
        assert last.class_weights.max() > 10

    def test_logit_offsets_follow_the_correction_of_the_epoch(self):
        fitted = Strategy(PowerSampler(1.0), loss=LogitAdjusted, schedule=Progressive()).fit(LABELS, INDEX, 3)
        for epoch in range(3):
            loss, correction = fitted.at_epoch(epoch).loss, fitted.at_epoch(epoch).correction
            np.testing.assert_allclose(loss.offsets, np.log(correction.effective_prior), rtol=1e-5)
            np.testing.assert_allclose(loss.effective_prior(correction), 1 / 4, rtol=1e-6)

    @pytest.mark.parametrize("schedule", [Deferred(), Deferred(1), Progressive()], ids=str)
    @pytest.mark.parametrize("epochs", [1, 0, -1, None])
    def test_a_schedule_with_one_epoch_is_refused(self, schedule, epochs):
        message = user_error(Strategy(schedule=schedule).fit, LABELS, INDEX, epochs)
        assert "two epochs" in message
        assert f"trainer.max_epochs={epochs}" in message
        assert "strategy.schedule=null" in message

    def test_a_schedule_accepts_two_epochs(self):
        assert Strategy(schedule=Deferred()).fit(LABELS, INDEX, 2).strengths == [0, 1]
        assert PROGRESSIVE.fit(LABELS, INDEX, 2).strengths == [0, 1]

    def test_over_correction_is_refused_before_the_first_epoch(self):
        twice = Strategy(PowerSampler(1.0), InverseFrequency(1.0), schedule=Progressive())
        assert "over-correct" in user_error(twice.fit, LABELS, INDEX, 5)
