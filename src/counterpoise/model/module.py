"""The LightningModule: encoder, dropout, linear head and a weighted loss."""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from counterpoise.data.batching import Batch, split_batch
from counterpoise.errors import UserError, out_of_memory
from counterpoise.metrics.buckets import DEFAULT_BOUNDS, Bounds
from counterpoise.metrics.scoring import Mean, MultiLabelScoring, SingleLabelScoring
from counterpoise.metrics.thresholds import Decision
from counterpoise.model.embeddings import PrecomputedEmbeddings
from counterpoise.model.encoder import Encoder
from counterpoise.model.heads import CosineHead, linear
from counterpoise.model.optim import Optim

log = logging.getLogger(__name__)


class Classifier(pl.LightningModule):
    """Text classifier: one class a text, or any number of labels.

    encoder: maps token ids to vectors [B, H], or `Vectors`. loss: called with (logits, targets, denominator, weights),
    of `counterpoise.balance`; one with `normalised_head` gets a `CosineHead` of its `scale`. optim: builds the
    optimiser. labels: the C names of classes or labels. counts: int [C], training examples of each, for the head,
    medium and tail metrics. batch_size: examples of an optimiser step, over all devices and micro-batches.
    micro_batch_size: texts of a forward and backward pass at most, as many as there are unless told. dropout: on the
    pooled vector. decision: how logits become labels; where it is given, the task is multi-label. head_bias: float
    [C], what the bias of the head starts from, 0 unless told. bounds: of head, medium and tail in the metrics.

    On one device, a step that does not fit into memory is done anew in smaller passes, to the same gradient.

    Logs train/loss_step and train/loss_epoch (as optimised), train/grad_norm, val/loss (unweighted, comparable between
    strategies), val/loss_weighted (comparable with the training loss) and val/<metric> for the metrics of
    `evaluate.metrics.scores`, or of `evaluate.multilabel.scores` after tuning the thresholds on the validation split;
    the same under test/, with these thresholds.
    """

    def __init__(
        self,
        encoder: Encoder | PrecomputedEmbeddings,
        loss: nn.Module,
        optim: Optim,
        labels: Sequence[str],
        counts: np.ndarray,
        batch_size: int,
        *,
        losses: Callable[[int], nn.Module] | None = None,
        micro_batch_size: int | None = None,
        dropout: float = 0.1,
        decision: Decision | None = None,
        head_bias: np.ndarray | None = None,
        bounds: Bounds = DEFAULT_BOUNDS,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise UserError(f"dropout={dropout}: use 0 or more, below 1")
        if micro_batch_size is not None and micro_batch_size < 1:
            raise UserError(f"micro_batch_size={micro_batch_size}: use a whole number from 1 on, or null")
        self.encoder, self.loss, self.losses, self.optim = encoder, loss, losses, optim
        self.labels, self.batch_size, self.micro_batch_size = list(labels), batch_size, micro_batch_size
        self.dropout = nn.Dropout(dropout)
        self.head: nn.Linear = (
            CosineHead(encoder.size, len(self.labels), loss.scale)  # type: ignore[arg-type]
            if getattr(loss, "normalised_head", False)
            else linear(encoder.size, len(self.labels), head_bias)
        )
        self.scoring: SingleLabelScoring | MultiLabelScoring = (
            SingleLabelScoring(np.asarray(counts), bounds)
            if decision is None
            else MultiLabelScoring(self.labels, np.asarray(counts), bounds, decision)
        )
        # DDP broadcasts buffers, and between GPUs none that is on the CPU.
        self._ddp_params_and_buffers_to_ignore = ["scoring.thresholds"]
        self.weighted = Mean()
        self.test_outputs: list[tuple[Tensor, Tensor]] = []
        self._loss_sum, self._loss_count = torch.zeros(()), 0.0
        self._passes, self._size = 1, (0, 0)
        self._room: float = math.inf

    def forward(self, batch: Batch) -> Tensor:
        """Returns logits [B, C] of a batch that holds what the encoder takes."""
        vectors = self.dropout(self.encoder(*(batch[name] for name in self.encoder.inputs)))
        # Of 8 significant bits logits would be too coarse to rank by.
        with torch.autocast(vectors.device.type, enabled=False):
            return self.head(vectors.to(self.head.weight))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the micro-batch's loss over the nominal micro-batch size.

        Lightning divides by the accumulated micro-batches and averages over processes: each example then counts
        1 / batch_size however the step was divided, also in the last, smaller step.
        """
        accumulate = self.trainer.accumulate_grad_batches
        self._size = len(batch["targets"]), batch[self.encoder.inputs[0]].numel()
        self._passes = self._needed_passes(*self._size)
        *first, last = split_batch(batch, self._passes)
        if first and batch_idx % accumulate == 0:
            self.zero_grad()
        done = torch.zeros((), device=self.device)
        for part in first:
            loss = self._loss_of(part)
            done += loss.detach()
            scaled = self.trainer.precision_plugin.pre_backward(loss / accumulate, self)
            with torch.autocast(self.device.type, enabled=False):
                scaled.backward()
        loss = self._loss_of(last) + done
        if self._logs:
            share = self._share(batch)
            self.log("train/loss_step", loss.detach() / share, batch_size=self._size[0], sync_dist=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Adds to the loss of the epoch: the mean over the examples there are, also in a smaller step."""
        self._loss_sum = self._loss_sum + outputs["loss"] * self.trainer.accumulate_grad_batches
        self._loss_count += self._share(batch)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Clears the gradients, unless the passes before the last one have, which are in them already."""
        if self._passes == 1:
            optimizer.zero_grad()

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Does an optimiser step; where it does not fit into memory, anew in more passes."""
        while True:
            try:
                return super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                self._make_room(error)
            # Only here, after the exception, nothing holds what the step had computed.
            optimizer.zero_grad()
            torch.cuda.empty_cache()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch to the scores and the losses."""
        self._evaluate(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Like `validation_step`, and keeps the logits in `test_outputs`."""
        self.test_outputs.append((batch["rows"].cpu(), self._evaluate(batch).float().cpu()))

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Returns (rows int64 [B], logits [B, C])."""
        return batch["rows"], self._logits(batch).float()

    def on_validation_epoch_start(self) -> None:  # noqa: D102
        self._reset()

    def on_test_epoch_start(self) -> None:  # noqa: D102
        self._reset()
        self.test_outputs.clear()

    def on_validation_epoch_end(self) -> None:  # noqa: D102
        # The sanity check before training sees untrained logits.
        tune = {"tune": not self.trainer.sanity_checking} if isinstance(self.scoring, MultiLabelScoring) else {}
        self._log_scores("val", self.scoring.scores(**tune))

    def on_test_epoch_end(self) -> None:  # noqa: D102
        self._log_scores("test", self.scoring.scores())

    def on_train_epoch_end(self) -> None:
        """Logs the mean loss of the epoch's examples, and how far the training has come."""
        if self._loss_count:
            self.log("train/loss_epoch", self._loss_sum / self._loss_count, sync_dist=True)
        done = {"epochs": self.current_epoch + 1.0, "steps": float(self.trainer.global_step)}
        self.log_dict(done, logger=False, sync_dist=False)

    def on_train_start(self) -> None:
        """Does what an epoch starts with in a run that is resumed within one, which does not start anew."""
        self.on_train_epoch_start()

    def on_train_epoch_start(self) -> None:
        """Takes the loss of the epoch; unfreezes the encoder when its epoch has come."""
        self._loss_sum, self._loss_count = torch.zeros((), device=self.device), 0.0
        if self.losses is not None:
            self.loss = self.losses(self.current_epoch).to(self.device)
        if not isinstance(self.encoder, Encoder) or self.encoder.unfreeze_at_epoch is None:
            return
        if self.current_epoch >= self.encoder.unfreeze_at_epoch and self.encoder.has_frozen_parameters:
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
        if self.trainer.precision == "16-mixed":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        # 0 is no limit, as Lightning has it.
        limit = gradient_clip_val if gradient_clip_val and gradient_clip_val > 0 else math.inf
        if gradient_clip_algorithm == "value":
            nn.utils.clip_grad_value_(self.parameters(), limit)
            return
        norm = nn.utils.clip_grad_norm_(self.parameters(), limit)
        if self._logs:
            self.log("train/grad_norm", norm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stores the labels, so that a checkpoint says what its logits mean, and the tokens that fit into a pass."""
        checkpoint["labels"] = self.labels
        checkpoint["room"] = self._room

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises UserError when the checkpoint was trained on other labels."""
        check_labels(checkpoint, self.labels)
        # Divided otherwise, other units would drop out.
        self._room = checkpoint.get("room", math.inf)

    def _loss_of(self, batch: Batch) -> Tensor:
        """Returns the loss of a part of a micro-batch over the nominal size of the whole one."""
        nominal = self.batch_size / (self.trainer.accumulate_grad_batches * self.trainer.world_size)
        return self.loss(self(batch), batch["targets"], denominator=nominal, weights=batch.get("weights"))

    def _share(self, batch: Batch) -> float:
        """Returns the examples of a micro-batch over their nominal number, below 1 in the last, smaller step."""
        parts = self.trainer.accumulate_grad_batches * self.trainer.world_size
        return len(batch["targets"]) * parts / self.batch_size

    def _needed_passes(self, texts: int, tokens: int) -> int:
        """Returns in how many passes a micro-batch is done: both texts and tokens of a pass are limited."""
        return min(texts, max(math.ceil(texts / (self.micro_batch_size or texts)), math.ceil(tokens / self._room)))

    def _make_room(self, error: Exception) -> None:
        """Halves the tokens of a pass; raises UserError where that cannot be."""
        texts, tokens = self._size
        what = (
            f"out of memory with {math.ceil(texts / self._passes)} texts of {tokens // max(texts, 1)} tokens in a pass"
        )
        if self._passes >= texts:
            raise UserError(f"{what}: lower encoder.max_length, or take a smaller encoder") from error
        if self.trainer.world_size > 1 or self.trainer.accumulate_grad_batches > 1:
            raise UserError(f"{what}: set micro_batch_size to less; on one device, without accumulation, it is found")
        passes = min(2 * self._passes, texts)
        self._room = tokens // passes
        log.warning("%s: a step of this size is done in %d passes from here on, to the same effect", what, passes)

    @property
    def _logs(self) -> bool:
        """Whether the loggers take this step: `log` costs as much as a small model's step, and DDP a reduction."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return every > 0 and (self.trainer.global_step + 1) % every == 0

    def _evaluate(self, batch: Batch) -> Tensor:
        logits, targets = self._logits(batch), batch["targets"]
        self.scoring.update(logits, targets)
        self.weighted.update(self.loss(logits, targets), len(targets))
        return logits

    def _logits(self, batch: Batch) -> Tensor:
        """Returns logits [B, C] of a batch; where it does not fit into memory, of its halves."""
        try:
            return self(batch)
        except RuntimeError as error:
            if not out_of_memory(error) or len(batch["targets"]) == 1:
                raise
        torch.cuda.empty_cache()
        return torch.cat([self._logits(half) for half in split_batch(batch, 2)])

    def _reset(self) -> None:
        self.scoring.reset()
        self.weighted.reset()

    def _log_scores(self, stage: str, scores: dict[str, float]) -> None:
        scores = scores | {"loss_weighted": float(self.weighted.compute())}
        # Computed from states that are already gathered over processes: the same number everywhere.
        self.log_dict({f"{stage}/{name}": value for name, value in scores.items()}, sync_dist=True)


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
