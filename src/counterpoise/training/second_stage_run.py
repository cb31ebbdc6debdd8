"""The second stage of a run: a new head for the best checkpoint."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from counterpoise.balance.losses.protocol import PriorCorrection
from counterpoise.data.batching import EmbeddingDataset
from counterpoise.model.embeddings import encode
from counterpoise.model.encoder import Encoder
from counterpoise.model.second_stage import FirstStage, SecondStage, SecondStageResult
from counterpoise.terminal import console
from counterpoise.training.checkpoints import (
    FIRST_STAGE_CHECKPOINT,
    AtomicCheckpointIO,
    copy_checkpoint,
    load_checkpoint,
)
from counterpoise.training.outcome import TrainingOutcome


def run_second_stage(
    outcome: TrainingOutcome, best: Path, shift_quality: PriorCorrection | None
) -> tuple[SecondStageResult, Path]:
    """Replace the head of the best checkpoint by the head of the strategy's second stage.

    The checkpoint of the first stage is kept beside it as `first_stage.ckpt`.

    Args:
        outcome: The finished training.
        best: The best checkpoint.
        shift_quality: How exact the prior correction of the first stage is, see `metrics.calibration`.

    Returns:
        The second stage's result, and the path of the checkpoint with the new head.
    """
    model, data, config = outcome.model, outcome.data, outcome.run.config
    checkpoint = load_checkpoint(best)
    model.load_state_dict(checkpoint["state_dict"])
    embeddings = _embeddings(outcome)
    prior_known = shift_quality is not None and not outcome.correction.multi_label
    first = FirstStage(
        head=model.head.cpu(),
        embeddings=embeddings,
        targets={name: split.targets for name, split in data.splits.items()},
        correction=outcome.correction,
        effective_prior=outcome.effective_prior if prior_known else None,
        score=lambda logits, targets: model.scoring.measure(logits, targets)["macro_f1"],
        dropout=config.dropout,
        seed=config.seed,
        shift_quality=shift_quality,
        head_factory=model.head_factory,
    )
    console.print("second stage: training or adjusting the head, with the encoder frozen")
    second_stage: SecondStage = outcome.fitted.strategy.second_stage
    result = second_stage(first)
    model.head = result.head
    if model.scoring.multi_label:
        with torch.no_grad():
            logits = result.head(torch.from_numpy(embeddings("validation"))).numpy()
        model.scoring.tune(logits, data.splits["validation"].targets)
    target = best.with_name("best.ckpt")
    if target == best:
        copy_checkpoint(best, best.with_name(FIRST_STAGE_CHECKPOINT))
    changed = {"state_dict": model.state_dict(), "second_stage": result.settings}
    AtomicCheckpointIO().save_checkpoint(checkpoint | changed, target)
    return result, target


def _embeddings(outcome: TrainingOutcome) -> Callable[[str], np.ndarray]:
    """Return a function that computes the embeddings of a split, float32 [N, H], once."""
    trainer, model, data = outcome.trainer, outcome.model, outcome.data
    device, computed = trainer.strategy.root_device, {}

    def embeddings(split: str) -> np.ndarray:
        if split not in computed:
            dataset = data.splits[split].dataset
            if isinstance(dataset, EmbeddingDataset):
                computed[split] = np.asarray(dataset.vectors[dataset.store_rows])
            else:
                assert isinstance(model.encoder, Encoder)
                with trainer.precision_plugin.forward_context():
                    computed[split] = encode(model.encoder, dataset, data.eval_batch_size, device)
        return computed[split]

    return embeddings
