"""Warnings about the texts of a labelled file: those that the run was trained on, and those that it truncates."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from counterpoise.commands.predictor import BlockPredictor, Predictor
from counterpoise.commands.trusted_classes import build
from counterpoise.data.arrow_columns import take_rows, to_array
from counterpoise.data.quality import equal_texts
from counterpoise.data.table import Split
from counterpoise.data.token_store import TEXTS_PER_CHUNK
from counterpoise.errors import UserError


def warnings_about(
    split: Split, run: Path, config: dict[str, Any], predictor: BlockPredictor, packages: Sequence[str]
) -> list[str]:
    """Return warnings about the texts of a labelled file, one line each.

    Args:
        split: The texts to score.
        run: Run folder.
        config: Configuration of the run.
        predictor: The run's model.
        packages: Packages whose classes may be built. See `trusted_classes.allowed_packages`.
    """
    lines, total = [], len(split)
    try:
        seen = int(equal_texts(split.texts, _training_texts(run, config, packages)).sum())
        if seen:
            lines.append(
                f"{split.file}: {seen:,} of {total:,} texts are also in the training data of the run (ignoring case "
                "and spaces): scores on them say nothing about new texts"
            )
    except (UserError, OSError, ValueError, LookupError) as error:
        reason = " ".join(str(error).split())
        lines.append(f"{split.file}: not compared with the training texts, which cannot be read ({reason})")
    if isinstance(predictor, Predictor) and (cut := _count_truncated(split, predictor)):
        read = predictor.tokenisation
        lines.append(
            f"{split.file}: {cut:,} of {total:,} texts are longer than {read.limit} of the run, and their "
            f"{read.unread}s are not read"
        )
    return lines


def _training_texts(run: Path, config: dict[str, Any], packages: Sequence[str]) -> Any:
    """Return the texts that a run was trained on, read from its source again."""
    source = build(config["data"], packages)
    source.prepare()
    train = source.load()["train"]
    with np.load(run / "splits.npz") as splits:
        return take_rows(train.texts, np.flatnonzero(np.isin(train.rows, splits["train"])))


def _count_truncated(split: Split, predictor: Predictor) -> int:
    texts, cut = to_array(split.texts), 0
    for start in range(0, len(texts), TEXTS_PER_CHUNK):
        part = texts[start : start + TEXTS_PER_CHUNK].to_pylist()
        read = predictor.tokenisation.encode(predictor.tokenizer, part)
        cut += sum(tokens.full_length > predictor.readable_length for tokens in read)
    return cut
