"""The linear baseline: known answers, weights, determinism and bounds."""

import random

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.svm import LinearSVC

from conftest import COUNTS, WORDS
from counterpoise.errors import UserError
from counterpoise.model import tfidf
from counterpoise.model.tfidf import CONSTANT, TfidfLinear

FEATURES = [
    {},
    {"char_ngrams": None},
    {"word_ngrams": None},
    {"word_ngrams": (1, 1), "char_ngrams": (2, 4), "sublinear": True},
]


def generated(counts: list[int], seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Return texts of one own word of their class and five common words, and the classes."""
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    common = [word for word in WORDS if word.startswith("word")]
    texts = [" ".join([f"{list(COUNTS)[c]}0", *rng.choice(common, 5)]) for c in classes]
    return texts, classes


def tags(targets: np.ndarray, classes: int) -> sparse.csr_matrix:
    return sparse.csr_matrix(np.eye(classes, dtype=bool)[targets])


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("beta", [0, 0.5, 1])
def test_separable_classes_are_learned_with_any_features_and_weights(features, beta):
    texts, classes = generated([60, 30, 10, 4])
    model = TfidfLinear(**features, beta=beta).fit(texts, classes, 4)
    unseen, truth = generated([20, 20, 20, 20], seed=1)
    logits = model.logits(unseen)
    assert logits.dtype == np.float32
    assert (logits.argmax(1) == truth).mean() > (0.97 if beta else 0.8)


def test_the_labels_of_multi_label_data_are_learned_one_by_one():
    texts, classes = generated([60, 30, 10, 4])
    pairs = [f"{a} {b}" for a, b in zip(texts, texts[::-1], strict=True)]
    both = (tags(classes, 4) + tags(classes[::-1], 4)).astype(bool)
    logits = TfidfLinear().fit(pairs, both, 4).logits(pairs)
    assert ((logits > 0) == both.toarray()).mean() > 0.99


def test_the_two_forms_of_targets_give_the_same_logits_without_class_weights():
    texts, classes = generated([20, 10, 4])
    single, multi = (
        TfidfLinear(beta=0).fit(texts, targets, 3).logits(texts) for targets in (classes, tags(classes, 3))
    )
    np.testing.assert_array_equal(single, multi)


def test_class_weights_move_the_decisions_towards_rare_classes():
    # The word "rare" has 8 texts of the rare class and 12 of the frequent one.
    texts, classes = ["rare thing"] * 20 + ["common thing"] * 200, np.repeat([1, 0], [8, 212])
    plain, balanced = (TfidfLinear(beta=beta, char_ngrams=None).fit(texts, classes, 2) for beta in (0, 1))
    assert plain.logits(["rare thing"]).argmax() == 0
    assert balanced.logits(["rare thing"]).argmax() == 1


def test_instance_weights_move_the_decision_towards_heavy_texts():
    texts, classes = ["cat"] * 4 + ["dog"], np.array([0, 0, 0, 1, 1])
    model = TfidfLinear(beta=0, char_ngrams=None, min_df=1)
    assert model.fit(texts, classes, 2).logits(["cat"]).argmax() == 0
    heavy = np.array([0.1, 0.1, 0.1, 5, 1])
    assert model.fit(texts, classes, 2, heavy).logits(["cat"]).argmax() == 1


def test_a_class_without_texts_is_last_and_a_label_of_all_texts_first():
    texts, classes = generated([20, 10])
    none = TfidfLinear().fit(texts, classes, 3).logits(texts)
    assert (none[:, 2] == -CONSTANT).all()
    everywhere = sparse.csr_matrix(np.column_stack([np.ones(30, bool), classes == 1]))
    assert (TfidfLinear().fit(texts, everywhere, 2).logits(texts)[:, 0] == CONSTANT).all()


def test_the_result_is_deterministic_and_no_global_random_state_is_used():
    texts, classes = generated([20, 10, 4])
    torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    one, two = (TfidfLinear().fit(texts, classes, 3).logits(texts) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert states[2] == random.getstate()


@pytest.mark.parametrize("form", [lambda classes: classes, lambda classes: tags(classes, 4)])
def test_a_sample_keeps_the_texts_of_small_classes_and_the_limit(form):
    classes = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [1000, 300, 20, 3]))
    lengths = np.full(len(classes), 10)
    rows = TfidfLinear(max_work=64 * 10 * 100).sample(lengths, form(classes), 4)
    assert len(rows) == 100
    assert (np.diff(rows) > 0).all()
    counts = np.bincount(classes[rows], minlength=4)
    assert counts[3] == 3
    assert counts[2] == 20
    assert abs(counts[0] - counts[1]) <= 1


def test_unlabelled_texts_are_sampled_like_a_class():
    targets = sparse.csr_matrix(np.repeat([[True], [False]], [500, 500], axis=0))
    rows = TfidfLinear(max_work=64 * 100).sample(np.ones(1000, int), targets, 1)
    assert abs((rows < 500).sum() - 50) <= 1


def test_all_texts_are_used_within_the_limit():
    assert len(TfidfLinear().sample(np.full(50, 100), np.zeros(50, int), 1)) == 50


@pytest.mark.parametrize("limit", [3, 10])
def test_the_number_of_features_is_limited(limit):
    texts, classes = generated([60, 30, 10, 4])
    assert TfidfLinear(max_features=limit).fit(texts, classes, 4).coefficients.shape == (2 * limit, 4)


@pytest.mark.parametrize("text", ["我 爱 你", "щ ж", "a b c", "... !!", "🙂 🙂"])
def test_short_and_unusual_texts_have_features_or_are_refused(text):
    texts, classes = [text, text, "xyz xyz", "xyz xyz"], np.array([0, 0, 1, 1])
    logits = TfidfLinear().fit(texts, classes, 2).logits([text, "xyz xyz", "never seen", ""])
    assert np.isfinite(logits).all()
    assert logits[:2].argmax(1).tolist() == [0, 1]


def test_texts_without_any_common_feature_are_refused():
    with pytest.raises(UserError, match=r"baseline\.min_df"):
        TfidfLinear(char_ngrams=None).fit(["one", "two", "three"], np.array([0, 1, 1]), 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("word_ngrams", [2, 1]),
        ("word_ngrams", [0, 1]),
        ("word_ngrams", [1]),
        ("word_ngrams", [1, 2.5]),
        ("char_ngrams", [3, 4, 5]),
        ("min_df", 0),
        ("min_df", 1.5),
        ("max_features", 0),
        ("max_features", None),
        ("regularisation", 0),
        ("regularisation", float("nan")),
        ("beta", -1),
        ("beta", "balanced"),
        ("max_work", float("inf")),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(UserError, match=f"baseline.{name}="):
        TfidfLinear(**{name: value})


def test_a_baseline_without_features_is_refused():
    with pytest.raises(UserError, match="word_ngrams"):
        TfidfLinear(word_ngrams=None, char_ngrams=None)


def test_balanced_weights_are_those_of_scikit_learn():
    texts, classes = generated([60, 30, 10])
    settings = TfidfLinear(beta=1)
    features = [settings.fit(texts, classes, 3).vectorizers[0].transform(texts)]
    svm = LinearSVC(tol=0.1, random_state=0, class_weight="balanced").fit(features[0], classes)
    own = TfidfLinear(beta=1, char_ngrams=None).fit(texts, classes, 3).logits(texts)
    np.testing.assert_allclose(own, svm.decision_function(features[0]), atol=0.05)
    labels = tags(classes, 3)
    each = LinearSVC(tol=0.1, random_state=0, class_weight="balanced").fit(features[0], classes == 2)
    own = TfidfLinear(beta=1, char_ngrams=None).fit(texts, labels, 3).logits(texts)
    np.testing.assert_allclose(own[:, 2], each.decision_function(features[0]), atol=0.05)


@pytest.mark.parametrize("classes", [3, 1000])
def test_many_classes_lower_the_number_of_features(classes, monkeypatch):
    monkeypatch.setattr(tfidf, "MAX_COEFFICIENTS", 20 * 2 * 3)
    texts, targets = generated([60, 30, 10])
    assert len(TfidfLinear().fit(texts, targets, classes).coefficients) <= (40 if classes == 3 else 2)
