"""The LightningModule: encoder, dropout, head, loss and metrics."""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from counterpoise.balance.losses.protocol import Loss
from counterpoise.data.batching import Batch, split_batch
from counterpoise.errors import UserError, check_whole_number
from counterpoise.metrics.buckets import DEFAULT_BOUNDS, Bounds
from counterpoise.metrics.scoring import Mean, MultiLabelScoring, Scoring, SingleLabelScoring
from counterpoise.metrics.thresholds import Decision
from counterpoise.model.embeddings import PrecomputedEmbeddings
from counterpoise.model.encoder import Encoder
from counterpoise.model.heads import AutoHead, HeadFactory, build_head, set_output_bias
from counterpoise.model.memory import OutOfMemoryRetries
from counterpoise.model.optim import Optim

log = logging.getLogger(__name__)


class Classifier(OutOfMemoryRetries):
    """Single-label or multi-label text classifier.

    Logs `train/loss_step` and `train/loss_epoch` (weighted), `train/grad_norm`, and for each validation `val/loss`
    (unweighted, comparable between strategies), `val/loss_weighted` (comparable with the training loss) and
    `val/METRIC` for each registered metric. Multi-label thresholds are tuned on the validation split first. The test
    logs the same under `test/`, with these thresholds.

    Args:
        encoder: Maps token ids to vectors [B, H], or passes precomputed embeddings on.
        loss: Training loss of the first epoch. None for a model that only predicts.
        optim: Builds the optimizer and its schedule.
        labels: Names of the C classes or labels.
        counts: Training examples of each class, int [C], for the buckets of metrics.
        batch_size: Examples per optimizer step, across all devices and micro-batches.
        head: Builds the head. Defaults to a linear one, or to a cosine head if the loss needs it.
        losses: Returns the training loss of an epoch. Defaults to `loss` in every epoch.
        micro_batch_size: Largest number of texts per forward pass. None: no limit except memory.
        dropout: Dropout probability of the pooled vectors.
        decision: How logits become labels. Makes the task multi-label.
        head_bias: Initial output bias of the head, float [C]. Defaults to that of the head. A head without an output
            bias stays as it is, with a warning.
        bounds: Training counts that separate head, medium and tail classes.
    """

    def __init__(
        self,
        encoder: Encoder | PrecomputedEmbeddings,
        loss: Loss | None,
        optim: Optim,
        labels: Sequence[str],
        counts: np.ndarray,
        batch_size: int,
        *,
        head: HeadFactory | None = None,
        losses: Callable[[int], Loss] | None = None,
        micro_batch_size: int | None = None,
        dropout: float = 0.1,
        decision: Decision | None = None,
        head_bias: np.ndarray | None = None,
        bounds: Bounds = DEFAULT_BOUNDS,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise UserError(f"dropout={dropout}: use a number of at least 0 and below 1")
        check_whole_number("micro_batch_size", micro_batch_size, null=True)
        self.encoder, self.loss, self.losses, self.optim = encoder, loss, losses, optim
        self.labels, self.batch_size, self.micro_batch_size = list(labels), batch_size, micro_batch_size
        self.dropout = nn.Dropout(dropout)
        self.head_factory = head or AutoHead()
        self.head = build_head(self.head_factory, encoder.size, len(self.labels), loss)
        if head_bias is not None and not set_output_bias(self.head, head_bias, encoder.size):
            log.warning(
                "bias_init has no effect: %s has no bias that is added to its logits. Set bias_init=false, or choose "
                "another head",
                type(self.head).__name__,
            )
        self.scoring: Scoring = (
            SingleLabelScoring(np.asarray(counts), bounds)
            if decision is None
            else MultiLabelScoring(self.labels, np.asarray(counts), bounds, decision)
        )
        # DDP broadcasts buffers, and GPUs cannot broadcast one that stays on the CPU.
        self._ddp_params_and_buffers_to_ignore = ["scoring.thresholds"]
        self.weighted_loss = Mean()
        self.test_outputs: list[tuple[Tensor, Tensor]] = []
        # Losses and examples over `batch_size`: of the completed optimizer steps of the epoch, and of the micro-batches
        # of the current step. With several devices, those of this device times the number of devices.
        self._loss_sum, self._loss_count = torch.zeros(()), 0.0
        self._step_losses: dict[int, tuple[Tensor, float]] = {}

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B, C] of a batch that holds the inputs of the encoder."""
        vectors = self.dropout(self.encoder(*(batch[name] for name in self.encoder.inputs)))
        # Compute logits in float32: bfloat16 is too coarse for ranking.
        with torch.autocast(vectors.device.type, enabled=False):
            return self.head(vectors.to(next(self.head.parameters(), vectors).dtype))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the sum of the losses of a micro-batch over the nominal micro-batch size.

        Lightning divides by the number of accumulated micro-batches and averages over processes. Each example then
        counts 1 / batch_size, however the step is divided, also in a smaller step.
        """
        accumulate = self.trainer.accumulate_grad_batches
        texts, tokens = len(batch["targets"]), batch[self.encoder.inputs[0]].numel()
        *first, last = split_batch(batch, self.passes_of(texts, tokens))
        if first and batch_idx % accumulate == 0:
            self.zero_grad()
        done = torch.zeros((), device=self.device)
        for part in first:
            loss = self._training_loss(part)
            done += loss.detach()
            scaled = self.trainer.precision_plugin.pre_backward(loss / accumulate, self)
            with torch.autocast(self.device.type, enabled=False):
                scaled.backward()
        loss = self._training_loss(last) + done
        examples = 0 if "filler" in batch else texts
        self._step_losses[batch_idx] = loss.detach() / accumulate, examples * self.trainer.world_size / self.batch_size
        if self._logs_this_step:
            # The value at the last micro-batch is recorded: the mean over the whole step.
            losses, counts = zip(*self._step_losses.values(), strict=True)
            self._log_mean("train/loss_step", torch.stack(losses).sum(), sum(counts))
        return loss

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """Do an optimizer step, and add the losses of its micro-batches to those of the epoch."""
        super().optimizer_step(*arguments, **named)
        for loss, count in self._step_losses.values():
            self._loss_sum = self._loss_sum + loss
            self._loss_count += count
        self._step_losses.clear()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the metrics and the losses."""
        self._evaluate(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the metrics and keep its logits in `test_outputs`."""
        self.test_outputs.append((batch["rows"].cpu(), self._evaluate(batch).float().cpu()))

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Return (rows int64 [B], logits [B, C])."""
        return batch["rows"], self.evaluation_logits(batch).float()

    def on_validation_epoch_start(self) -> None:
        """Reset the metrics."""
        self._reset()

    def on_test_epoch_start(self) -> None:
        """Reset the metrics and the kept logits."""
        self._reset()
        self.test_outputs.clear()

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics, after tuning thresholds on trained logits."""
        self._log_scores("val", self.scoring.scores(tune=not self.trainer.sanity_checking))

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log_scores("test", self.scoring.scores())

    def on_train_epoch_end(self) -> None:
        """Log the mean loss of the epoch's examples, and the number of epochs and steps.

        If the run was resumed within the epoch, the mean includes the examples before. With several devices, their
        loss is estimated by that of the first device.
        """
        self._log_mean("train/loss_epoch", self._loss_sum, self._loss_count)
        done = {"epochs": self.current_epoch + 1.0, "steps": float(self.trainer.global_step)}
        self.log_dict(done, logger=False, sync_dist=False)

    def mean_loss(self) -> float | None:
        """Return the mean loss of the examples of the epoch so far, of this device; None before its first step."""
        return self._loss_sum.item() / self._loss_count if self._loss_count else None

    def on_train_start(self) -> None:
        """Prepare the epoch of a run that is resumed within one, for which Lightning calls no epoch start."""
        self._prepare_epoch()

    def on_train_epoch_start(self) -> None:
        """Take the loss of the epoch, and unfreeze the encoder in its epoch."""
        self._loss_sum, self._loss_count = torch.zeros(()), 0.0
        self._step_losses.clear()
        self._prepare_epoch()

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        """Return AdamW and its schedule per step."""
        # Fused AdamW unscales fp16 gradients itself, after clipping would have needed them unscaled.
        fused = self.device.type in ("cpu", "cuda") and self.trainer.precision != "16-mixed"
        steps = int(self.trainer.estimated_stepping_batches)
        optimizer, schedule = self.optim.build(self.encoder, self.head, steps, fused)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the global gradient norm and log it. Lightning 2.6 refuses to clip for a fused optimizer."""
        if self.trainer.precision == "16-mixed":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        # As in Lightning, 0 disables clipping.
        limit = gradient_clip_val if gradient_clip_val and gradient_clip_val > 0 else math.inf
        if gradient_clip_algorithm == "value":
            nn.utils.clip_grad_value_(self.parameters(), limit)
            return
        norm = nn.utils.clip_grad_norm_(self.parameters(), limit)
        if self._logs_this_step:
            self.log("train/grad_norm", norm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the labels, which name the logits, the pooling, and the training loss of the epoch so far."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["labels"] = self.labels
        if isinstance(self.encoder, Encoder):
            checkpoint["pooling"] = self.encoder.poolings
        checkpoint["epoch_loss"] = {"sum": self._loss_sum, "count": self._loss_count}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise UserError if the checkpoint has other labels."""
        check_labels(checkpoint, self.labels)
        super().on_load_checkpoint(checkpoint)
        if "epoch_loss" in checkpoint:
            self._loss_sum, self._loss_count = checkpoint["epoch_loss"]["sum"], checkpoint["epoch_loss"]["count"]

    def _prepare_epoch(self) -> None:
        """Take the loss of the epoch, and unfreeze the encoder in its epoch."""
        if self.losses is not None:
            self.loss = self.losses(self.current_epoch).to(self.device)
        if not isinstance(self.encoder, Encoder) or self.encoder.unfreeze_at_epoch is None:
            return
        if self.current_epoch >= self.encoder.unfreeze_at_epoch and self.encoder.has_frozen_parameters:
            self.encoder.freeze("none")
            self.encoder.train()

    def _training_loss(self, batch: Batch) -> Tensor:
        """Return the loss of a part of a micro-batch over the nominal size of the whole micro-batch."""
        nominal = self.batch_size / (self.trainer.accumulate_grad_batches * self.trainer.world_size)
        assert self.loss is not None
        return self.loss(self(batch), batch["targets"], denominator=nominal, weights=batch.get("weights"))

    def _log_mean(self, name: str, loss: Tensor, count: float) -> None:
        """Log the loss over the count of examples, both averaged over the devices; nothing if there is no example."""
        sums = torch.stack([loss.to(self.device), torch.full_like(loss, count, device=self.device)])
        total, examples = self.trainer.strategy.reduce(sums, reduce_op="mean")
        if examples:
            self.log(name, total / examples, sync_dist=True)

    @property
    def _logs_this_step(self) -> bool:
        """Whether loggers record this step. `log` costs as much as a small model's step, and DDP a reduction."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return every > 0 and (self.trainer.global_step + 1) % every == 0

    def _evaluate(self, batch: Batch) -> Tensor:
        logits, targets = self.evaluation_logits(batch), batch["targets"]
        self.scoring.update(logits, targets)
        assert self.loss is not None
        self.weighted_loss.update(self.loss(logits, targets), len(targets))
        return logits

    def _reset(self) -> None:
        self.scoring.reset()
        self.weighted_loss.reset()

    def _log_scores(self, stage: str, scores: dict[str, float]) -> None:
        scores = scores | {"loss_weighted": float(self.weighted_loss.compute())}
        # The states are gathered over processes already, so every process has the same values.
        self.log_dict({f"{stage}/{name}": value for name, value in scores.items()}, sync_dist=True)


def check_labels(checkpoint: dict[str, Any], labels: Sequence[str]) -> None:
    """Raise UserError if a checkpoint was trained on other labels."""
    saved = checkpoint.get("labels")
    if saved is None:
        raise UserError("the checkpoint has no labels, so it was not written by this project")
    if list(saved) != list(labels):
        missing, extra = sorted(set(saved) - set(labels)), sorted(set(labels) - set(saved))
        raise UserError(
            f"the checkpoint has other labels: {len(saved)} labels against {len(labels)} in this data"
            + (f"; not in this data: {', '.join(missing[:5])}" if missing else "")
            + (f"; not in the checkpoint: {', '.join(extra[:5])}" if extra else "")
            + ("" if missing or extra else "; the same ones in another order")
        )
