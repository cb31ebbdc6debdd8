"""The LightningModule: encoder, dropout, linear head and a weighted loss."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassConfusionMatrix

from counterpoise.data.batching import Batch
from counterpoise.errors import UserError
from counterpoise.evaluate.metrics import scores
from counterpoise.model.encoder import Encoder
from counterpoise.model.optim import Optim


class Classifier(pl.LightningModule):
    """Single-label text classifier.

    encoder: maps token ids to vectors [B, H]. loss: called with (logits, classes, denominator), of
    `counterpoise.balance.losses`. optim: builds the optimiser. labels: the C class names. counts: int [C], training
    examples of each class, for the head, medium and tail metrics. batch_size: examples of an optimiser step, over all
    devices and micro-batches. dropout: on the pooled vector.

    Logs train/loss (as optimised), train/grad_norm, val/loss (unweighted, comparable between strategies),
    val/loss_weighted (comparable with train/loss) and val/<metric> for the metrics of `evaluate.metrics.scores`; the
    same under test/.
    """

    def __init__(
        self,
        encoder: Encoder,
        loss: nn.Module,
        optim: Optim,
        labels: Sequence[str],
        counts: np.ndarray,
        batch_size: int,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise UserError(f"dropout={dropout}: use 0 or more, below 1")
        self.encoder, self.loss, self.optim = encoder, loss, optim
        self.labels, self.counts, self.batch_size = list(labels), np.asarray(counts), batch_size
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.size, len(self.labels))
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        # The state of one evaluation; metrics are not saved with the weights.
        self.confusion = MulticlassConfusionMatrix(len(self.labels))
        self.unweighted, self.weighted = MeanMetric(), MeanMetric()
        self.test_outputs: list[tuple[Tensor, Tensor]] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns logits [B, C] of int64 input_ids and attention_mask [B, T]."""
        return self.head(self.dropout(self.encoder(input_ids, attention_mask)))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the micro-batch's loss over the nominal micro-batch size.

        Lightning divides by the accumulated micro-batches and averages over processes: each example then counts
        1 / batch_size however the step was divided, also in the last, smaller step.
        """
        logits = self(batch["input_ids"], batch["attention_mask"])
        parts = self.trainer.accumulate_grad_batches * self.trainer.world_size
        loss = self.loss(logits, batch["classes"], denominator=self.batch_size / parts)
        self.log(
            "train/loss",
            loss.detach(),
            on_step=True,
            on_epoch=True,
            prog_bar=True,
            batch_size=len(logits),
            sync_dist=True,
        )
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Counts a batch into the confusion matrix and the losses."""
        self._evaluate(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Like `validation_step`, and keeps the logits in `test_outputs`."""
        self.test_outputs.append((batch["rows"].cpu(), self._evaluate(batch).float().cpu()))

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Returns (rows int64 [B], logits [B, C])."""
        return batch["rows"], self(batch["input_ids"], batch["attention_mask"]).float()

    def on_validation_epoch_start(self) -> None:  # noqa: D102
        self._reset()

    def on_test_epoch_start(self) -> None:  # noqa: D102
        self._reset()
        self.test_outputs.clear()

    def on_validation_epoch_end(self) -> None:  # noqa: D102
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:  # noqa: D102
        self._log_scores("test")

    def on_train_start(self) -> None:
        """Unfreezes the encoder in a run that is resumed within an epoch, which does not start anew."""
        self.on_train_epoch_start()

    def on_train_epoch_start(self) -> None:
        """Unfreezes the encoder when its epoch has come."""
        when = self.encoder.unfreeze_at_epoch
        if when is not None and self.current_epoch >= when and self.encoder.has_frozen_parameters:
            self.encoder.freeze("none")
            self.encoder.train()

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        """Returns AdamW and its per-step schedule."""
        # Fused AdamW unscales fp16 gradients itself, after they would have been clipped.
        fused = self.device.type in ("cpu", "cuda") and self.trainer.precision != "16-mixed"
        steps = int(self.trainer.estimated_stepping_batches)
        optimiser, schedule = self.optim.build(self.encoder, self.head, steps, fused)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the global gradient norm and logs it; Lightning 2.6 refuses to clip for a fused optimiser."""
        if gradient_clip_algorithm == "value" or self.trainer.precision == "16-mixed":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        limit = float("inf") if gradient_clip_val is None else gradient_clip_val
        norm = nn.utils.clip_grad_norm_(self.parameters(), limit)
        self.log("train/grad_norm", norm, on_step=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stores the labels, so that a checkpoint says what its logits mean."""
        checkpoint["labels"] = self.labels

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises UserError when the checkpoint was trained on other labels."""
        check_labels(checkpoint, self.labels)

    def _evaluate(self, batch: Batch) -> Tensor:
        logits, classes = self(batch["input_ids"], batch["attention_mask"]), batch["classes"]
        self.confusion.update(logits.argmax(-1), classes)
        self.unweighted.update(F.cross_entropy(logits.float(), classes), len(classes))
        self.weighted.update(self.loss(logits, classes), len(classes))
        return logits

    def _reset(self) -> None:
        for metric in (self.confusion, self.unweighted, self.weighted):
            metric.reset()

    def _log_scores(self, stage: str) -> None:
        values = scores(self.confusion.compute().cpu().numpy(), self.counts)
        values |= {"loss": float(self.unweighted.compute()), "loss_weighted": float(self.weighted.compute())}
        # Computed from states that are already summed over processes: the same number everywhere.
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()}, sync_dist=True)


def check_labels(checkpoint: dict[str, Any], labels: Sequence[str]) -> None:
    """Raises UserError when `checkpoint` was trained on other labels than these."""
    theirs = checkpoint.get("labels")
    if theirs is None:
        raise UserError("the checkpoint says nothing of its labels: it was not written by this project")
    if list(theirs) != list(labels):
        missing, extra = sorted(set(theirs) - set(labels)), sorted(set(labels) - set(theirs))
        raise UserError(
            f"the checkpoint is from another label set: {len(theirs)} labels against {len(labels)} in this data"
            + (f"; not in this data: {', '.join(missing[:5])}" if missing else "")
            + (f"; not in the checkpoint: {', '.join(extra[:5])}" if extra else "")
            + ("" if missing or extra else "; the same ones in another order")
        )
