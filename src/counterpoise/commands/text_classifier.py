"""The Python API of prediction: `counterpoise.load`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from scipy.special import expit, softmax

from counterpoise.commands.predictor import BlockPredictor, load
from counterpoise.commands.trusted_classes import PACKAGE
from counterpoise.data.text_columns import join_texts
from counterpoise.errors import UserError
from counterpoise.metrics.adjustment import Adjustment, read_adjustment

Label: TypeAlias = str | list[str] | None


@dataclass(frozen=True)
class Predictions:
    """Predictions of N texts, in their order.

    Args:
        classes: Names of the C classes or labels.
        labels: Predicted class of each text (several labels per text: list of its labels, the most probable first);
            None without a prediction.
        probabilities: Float64 [N, C], in the order of `classes`; NaN without a prediction.
        not_predicted: Why a text has no prediction, such as "blank text"; None if it has one.
        multi_label: Whether a text may have any number of labels.
    """

    classes: list[str]
    labels: list[Label]
    probabilities: np.ndarray
    not_predicted: list[str | None]
    multi_label: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def table(self) -> pa.Table:
        """Return the predicted labels and their probabilities as an Arrow table of N rows.

        Columns: `prediction`, `probability` and `not_predicted`; several labels per text: the lists `predictions` and
        `probabilities`, and `not_predicted`. A text without a prediction has nulls.
        """
        text, number, place = pa.string(), pa.float64(), {name: c for c, name in enumerate(self.classes)}

        def probability(row: np.ndarray, label: Label) -> Any:
            if label is None:
                return None
            return [row[place[each]] for each in label] if isinstance(label, list) else row[place[label]]

        found = [probability(row, label) for row, label in zip(self.probabilities, self.labels, strict=True)]
        reasons = pa.array(self.not_predicted, text)
        if self.multi_label:
            names, columns = ["predictions", "probabilities"], (pa.list_(text), pa.list_(number))
        else:
            names, columns = ["prediction", "probability"], (text, number)
        values = [pa.array(each, kind) for each, kind in zip((self.labels, found), columns, strict=True)]
        return pa.table([*values, reasons], names=[*names, "not_predicted"])


class TextClassifier:
    """A trained model that predicts texts. `counterpoise.load` reads it from a folder.

    Args:
        predictor: The model.
        adjustment: Its calibration; None if it has none.
    """

    def __init__(self, predictor: BlockPredictor, adjustment: Adjustment | None = None) -> None:
        self._predictor, self._adjustment = predictor, adjustment

    @classmethod
    def load(
        cls, folder: Path, device: str = "auto", precision: str = "auto", packages: Sequence[str] = (PACKAGE,)
    ) -> "TextClassifier":
        """Return the model of a run, an ensemble or an exported folder. See `predictor.load`."""
        predictor, calibration = load(folder, device, precision, packages), folder / "calibration.json"
        return cls(predictor, read_adjustment(calibration, predictor.labels) if calibration.is_file() else None)

    @property
    def classes(self) -> list[str]:
        """Names of the C classes or labels."""
        return list(self._predictor.labels)

    @property
    def multi_label(self) -> bool:
        """Whether a text may have any number of labels."""
        return self._predictor.decision is not None

    @property
    def columns(self) -> int:
        """Number of columns of a text, such as 2 for a title and a body."""
        return self._predictor.columns

    def predict(self, texts: Sequence[str | Sequence[str]], calibrated: bool = False) -> Predictions:
        """Return the predictions of texts, as `python -m counterpoise.predict` writes them.

        Args:
            texts: N texts. If the model was trained on texts of several columns, each is a list of their texts.
            calibrated: Return calibrated probabilities. The predicted labels stay those of the uncalibrated model.
                Defaults to False.

        Raises:
            TypeError: `texts` is a string, or holds a value that is no text, or not one for each column.
            ValueError: A text is not valid Unicode.
            UserError: `calibrated` is set and the model has no calibration.
        """
        if isinstance(texts, str):
            raise TypeError("texts is one string: pass a list of texts")
        if calibrated and self._adjustment is None:
            raise UserError("calibrated=True: the model has no calibration.json")
        texts = list(texts)
        if wrong := [row for row, text in enumerate(texts) if not self.accepts(text)]:
            expected = "str" if self.columns == 1 else f"a list of {self.columns} str, one for each column of the model"
            raise TypeError(f"texts[{wrong[0]}] is of type {type(texts[wrong[0]]).__name__}, not {expected}")
        plain = [text if isinstance(text, str) else join_texts(text) for text in texts]
        column = pa.chunked_array([pa.array(plain, pa.large_string())])
        prepared = self._predictor.prepare(plain)
        logits = self._predictor.finish(prepared, lambda texts: None)
        reasons = self._predictor.reasons(column, prepared)
        shown = self._adjustment(logits) if calibrated and self._adjustment else logits.astype(np.float64)
        probabilities = expit(shown) if self.multi_label else softmax(shown, axis=1)
        probabilities[reasons.is_valid().to_numpy(zero_copy_only=False)] = np.nan
        why = reasons.to_pylist()
        decided = self._decide(logits)
        labels = [None if reason else own for own, reason in zip(decided, why, strict=True)]
        return Predictions(self.classes, labels, probabilities, why, self.multi_label)

    def accepts(self, text: Any) -> bool:
        """Return whether a value is a text of this model: a string, or with several columns a list of strings."""
        if self.columns == 1 or not isinstance(text, Sequence) or isinstance(text, str):
            return self.columns == 1 and isinstance(text, str)
        return len(text) == self.columns and all(isinstance(part, str) for part in text)

    def _decide(self, logits: np.ndarray) -> list[Label]:
        names = self._predictor.labels
        if not self.multi_label:
            return [names[number] for number in logits.argmax(axis=1)]
        decided = self._predictor.decide(logits)
        ranked = np.argsort(-logits, axis=1, kind="stable")
        return [[names[c] for c in order if row[c]] for order, row in zip(ranked, decided, strict=True)]
