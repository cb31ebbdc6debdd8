"""Predict texts with the PyTorch model of a finished run."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterpoise.commands.predictor import MAX_TOKENS, Predictor
from counterpoise.commands.trusted_classes import PACKAGE, build
from counterpoise.data.table_format import text_columns
from counterpoise.data.token_store import load_tokenizer
from counterpoise.errors import UserError
from counterpoise.metrics.scoring import MultiLabelScoring
from counterpoise.model.module import Classifier
from counterpoise.saved_files import reading
from counterpoise.training.encoder_record import check_tokenizer


def make_predictor(
    run: Path,
    model: Classifier,
    config: dict[str, Any],
    device: str = "cpu",
    precision: str = "fp32",
    packages: Sequence[str] = (PACKAGE,),
) -> Predictor:
    """Return the predictor of a run folder, with its model and configuration from `load_run`. See `predictor.load`."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: {' '.join(str(error).split())}") from error
    kind = model.device.type
    native = kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    half = precision == "bf16" or (precision == "auto" and native)

    def logits(ids: np.ndarray, mask: np.ndarray) -> Tensor:
        batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=half):
            return model({name: values.to(device) for name, values in batch.items()}).float()

    with reading(run):
        source = build(config["encoder"], packages)
        tokenizer = load_tokenizer(source.locate(), source.revision)
        check_tokenizer(run, source, tokenizer)
        backend, scoring = tokenizer.backend_tokenizer, model.scoring
        columns = len(text_columns(config["data"].get("text")))
        tokenisation = replace(source.tokenisation, columns=columns)
        tokenisation.prepare(backend)
    found = Predictor(
        labels=model.labels,
        tokenizer=backend,
        pad=tokenizer.pad_token_id or 0,
        model=logits,
        tokenisation=tokenisation,
        max_tokens=MAX_TOKENS.get(kind, MAX_TOKENS["cpu"]),
        gather=lambda outputs: torch.cat(tuple(outputs)).cpu().numpy(),
    )
    if isinstance(scoring, MultiLabelScoring):
        found.decision, found.thresholds = scoring.decision, scoring.thresholds.cpu().numpy()
    return found
