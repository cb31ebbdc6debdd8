"""Start the head at the embeddings of class names or descriptions, instead of at random weights."""

import csv
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from counterpoise.data.datamodule import TextDataModule
from counterpoise.data.padding import pad_sequences
from counterpoise.data.splits import sample_rows
from counterpoise.errors import UserError, nearest
from counterpoise.model.embeddings import encode
from counterpoise.model.encoder import Encoder
from counterpoise.model.heads import start_at_class_vectors
from counterpoise.model.module import Classifier
from counterpoise.training.run import RunContext

log = logging.getLogger(__name__)

NAMES = "names"
"""Value of `label_texts` for the names of the classes."""
SAMPLE = 512
"""Training texts that the mean and the spread of the embeddings are measured on."""


def start_from_label_texts(run: RunContext, model: Classifier, data: TextDataModule) -> None:
    """Set the head's weights to the embeddings of the classes' texts, if `label_texts` says so and no run is resumed.

    Raises:
        UserError: The file cannot be read or does not fit the classes, or the model is a linear probe.
    """
    setting = run.config.label_texts
    if setting is None:
        return
    texts = read_label_texts(str(setting), data.labels)
    if not isinstance(model.encoder, Encoder):
        raise UserError("label_texts: a linear probe does not load its encoder; use train=finetune")
    if run.config.ckpt:
        return
    train = data.splits["train"].dataset
    if len(train) > SAMPLE:
        train = train.subset(sample_rows(train.targets, SAMPLE, 0))
    cpu = torch.device("cpu")
    vectors = torch.from_numpy(encode(model.encoder, train, data.eval_batch_size, cpu))
    classes = encode_texts(model.encoder, texts, data)
    if same := len(classes) - len(classes.unique(dim=0)):
        log.warning(
            "label_texts: %d of %d classes have the embedding of another one: their texts are equal, or consist of "
            "tokens that the encoder does not know",
            same,
            len(classes),
        )
    if not start_at_class_vectors(model.head, classes, vectors):
        log.warning(
            "label_texts has no effect: %s does not end with a linear layer that has a bias. Set label_texts=null, or "
            "choose another head",
            type(model.head).__name__,
        )


def read_label_texts(setting: str, labels: Sequence[str]) -> list[str]:
    """Return the text of each class: from a CSV file with the columns "class" and "text", or its name.

    Args:
        setting: "names", or the path of the file. A class that the file lacks has its name as text.
        labels: Names of the C classes.

    Raises:
        UserError: The file cannot be read, names other classes, or names one twice.
    """
    names = [" ".join(re.split(r"[\W_]+", label)).strip() or label for label in labels]
    if setting == NAMES:
        return names
    key = f"label_texts={setting}"
    try:
        with Path(setting).open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"{key}: {error.strerror}; give names, or a CSV file with the columns class,text") from error
    except (ValueError, csv.Error) as error:
        raise UserError(f"{key}: the file is not CSV in UTF-8 ({error})") from error
    if not rows or not {"class", "text"} <= rows[0].keys():
        raise UserError(f"{key}: the file needs a header with the columns class and text, and a row for each class")
    texts: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        name, text = row["class"], (row["text"] or "").strip()
        if name not in labels:
            raise UserError(f"{key}: row {number} names {name!r}, which is not a class.{nearest(str(name), labels)}")
        if name in texts or not text:
            raise UserError(f"{key}: row {number} has {'a second' if name in texts else 'no'} text for {name!r}")
        texts[name] = text
    if missing := [label for label in labels if label not in texts]:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        log.warning("%s: %d classes have no text and start at their names: %s", key, len(missing), shown)
    return [texts.get(label, name) for label, name in zip(labels, names, strict=True)]


@torch.inference_mode()
def encode_texts(encoder: Encoder, texts: Sequence[str], data: TextDataModule) -> torch.Tensor:
    """Return the embeddings of texts, float32 [N, H], in evaluation mode."""
    training, _ = encoder.training, encoder.eval()
    vectors = []
    for start in range(0, len(texts), data.eval_batch_size):
        part = list(texts[start : start + data.eval_batch_size])
        backend = data.tokenizer.backend_tokenizer
        data.tokenisation.prepare(backend)
        tokens = [np.asarray(ids) for ids in data.tokenisation.token_ids(backend, part)]
        ids, mask = pad_sequences(tokens, data.tokenizer.pad_token_id or 0)
        vectors.append(encoder(torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))).float())
    encoder.train(training)
    return torch.cat(vectors)
