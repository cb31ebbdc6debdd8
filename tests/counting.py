"""A model without training: its logits are the numbers of the words a, b and c in a text."""

from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from counterpoise.commands.predictor import Predictor
from counterpoise.metrics.thresholds import Decision

WORDS = ("<unk>", "a", "b", "c")


def counting_model(classes: Sequence[str] = ("A", "B", "C"), thresholds: Sequence[float] | None = None) -> Predictor:
    """Return the model; with probability thresholds a multi-label one."""
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()

    def count(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.stack([((ids == number) & (mask == 1)).sum(axis=1) for number in (1, 2, 3)], 1, dtype=np.float32)

    predictor = Predictor(labels=list(classes), tokenizer=tokenizer, pad=0, model=count, max_tokens=8)
    if thresholds is not None:
        predictor.decision, predictor.thresholds = Decision(), np.array(thresholds)
    return predictor
