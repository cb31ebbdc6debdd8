"""The Python API of prediction, on models that need no training."""

import numpy as np
import pytest

from counterpoise.commands.predictor import Predictor
from counterpoise.commands.text_classifier import TextClassifier
from counterpoise.errors import UserError
from counterpoise.metrics.adjustment import Adjustment
from counting import counting_model


@pytest.fixture
def predictor() -> Predictor:
    return counting_model()


def test_single_label_predictions(predictor):
    found = TextClassifier(predictor).predict(["a", "b c b", "c a c c c c c c c c c"])
    assert found.classes == ["A", "B", "C"]
    assert found.labels == ["A", "B", "C"]
    assert found.probabilities.shape == (3, 3)
    np.testing.assert_allclose(found.probabilities[0], np.exp([1, 0, 0]) / np.exp([1, 0, 0]).sum())
    assert found.not_predicted == [None] * 3
    assert len(found) == 3


def test_multi_label_predictions_are_sorted_by_probability():
    model = TextClassifier(counting_model(thresholds=[0.6, 0.6, 0.9]))
    found = model.predict(["a b b", "c", "b"])
    assert model.multi_label
    assert found.labels == [["B", "A"], [], ["B"]]
    np.testing.assert_allclose(found.probabilities[0], 1 / (1 + np.exp([-1, -2, 0])))


def test_a_table_holds_labels_with_their_probabilities(predictor):
    found = TextClassifier(predictor).predict(["a", "", "b c b"])
    table = found.table().to_pydict()
    assert table["prediction"] == ["A", None, "B"]
    assert table["probability"] == [found.probabilities[0, 0], None, found.probabilities[2, 1]]
    assert table["not_predicted"] == [None, "blank text", None]
    found = TextClassifier(counting_model(thresholds=[0.6, 0.6, 0.9])).predict(["a b b", "c", ""])
    table = found.table().to_pydict()
    assert table["predictions"] == [["B", "A"], [], None]
    assert table["probabilities"] == [[found.probabilities[0, 1], found.probabilities[0, 0]], [], None]


def test_texts_without_a_prediction_say_why(predictor):
    found = TextClassifier(predictor).predict(["", "unheard of", "b"])
    assert found.labels == [None, None, "B"]
    assert found.not_predicted == ["blank text", "no known token", None]
    assert np.isnan(found.probabilities).all(axis=1).tolist() == [True, True, False]


def test_calibration_changes_probabilities_and_not_labels(predictor):
    model = TextClassifier(predictor, Adjustment(np.array([2.0, 0.0, 0.0]), 0.5))
    raw, calibrated = model.predict(["a"]), model.predict(["a"], calibrated=True)
    assert raw.labels == calibrated.labels == ["A"]
    np.testing.assert_allclose(calibrated.probabilities[0], np.exp([-2, 0, 0]) / np.exp([-2, 0, 0]).sum())
    with pytest.raises(UserError, match="no calibration"):
        TextClassifier(predictor).predict(["a"], calibrated=True)


def test_no_texts_give_no_predictions(predictor):
    found = TextClassifier(predictor).predict([])
    assert found.labels == []
    assert found.probabilities.shape == (0, 3)


@pytest.mark.parametrize(("texts", "error"), [("a text", "pass a list"), (["a", None], r"texts\[1\] is of type None")])
def test_what_is_not_a_list_of_texts_is_refused(predictor, texts, error):
    with pytest.raises(TypeError, match=error):
        TextClassifier(predictor).predict(texts)


def test_text_that_is_not_valid_unicode_is_refused(predictor):
    with pytest.raises(ValueError, match="surrogates"):
        TextClassifier(predictor).predict(["\ud800"])
