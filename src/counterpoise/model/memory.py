"""Out-of-memory retries: a batch that does not fit into memory is split, with the same gradients and logits."""

import logging
import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from counterpoise.data.batching import Batch, split_batch
from counterpoise.errors import UserError, out_of_memory

log = logging.getLogger(__name__)


class OutOfMemoryRetries(pl.LightningModule):
    """Mixin of a LightningModule that splits training and evaluation batches that do not fit into memory.

    Training: if an optimizer step runs out of memory, the number of passes per micro-batch is doubled and the step is
    repeated. The limit of tokens per pass is kept for later batches and in checkpoints. With several devices or
    gradient accumulation only `micro_batch_size` limits a pass.

    Evaluation: a batch is halved until it fits.

    Args:
        micro_batch_size: Largest number of texts per forward and backward pass. None: no limit.
    """

    micro_batch_size: int | None
    _passes = 1
    _batch_size = (0, 0)
    _max_tokens: float = math.inf

    def passes_of(self, texts: int, tokens: int) -> int:
        """Return the number of passes of a micro-batch with this number of texts and of tokens, padding included."""
        self._batch_size = texts, tokens
        by_texts, by_tokens = math.ceil(texts / (self.micro_batch_size or texts)), math.ceil(tokens / self._max_tokens)
        self._passes = min(texts, max(by_texts, by_tokens))
        return self._passes

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Clear the gradients, except between the passes of one micro-batch."""
        if self._passes == 1:
            optimizer.zero_grad()

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Do an optimizer step; repeat it in more passes if it runs out of memory."""
        while True:
            try:
                return super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                self._double_passes(error)
            # After the except block no reference to the tensors of the failed step remains.
            optimizer.zero_grad()
            torch.cuda.empty_cache()

    def evaluation_logits(self, batch: Batch) -> Tensor:
        """Return logits [B, C] of a batch, or of its halves if it does not fit into memory."""
        try:
            return self(batch)
        except RuntimeError as error:
            if not out_of_memory(error) or len(batch["targets"]) == 1:
                raise
        torch.cuda.empty_cache()
        return torch.cat([self.evaluation_logits(half) for half in split_batch(batch, 2)])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the token limit: with another division of batches dropout would differ after a resume."""
        checkpoint["max_tokens_per_pass"] = self._max_tokens

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the token limit."""
        self._max_tokens = checkpoint.get("max_tokens_per_pass", math.inf)

    def _double_passes(self, error: Exception) -> None:
        texts, tokens = self._batch_size
        per_pass = math.ceil(texts / self._passes)
        problem = f"out of memory with {per_pass} texts of {tokens // max(texts, 1)} tokens per pass"
        if self._passes >= texts:
            raise UserError(
                f"{problem}: lower encoder.max_length (or encoder.max_chunks), or use a smaller encoder"
            ) from error
        if self.trainer.world_size > 1 or self.trainer.accumulate_grad_batches > 1:
            raise UserError(
                f"{problem}: set micro_batch_size below {per_pass}. It is chosen automatically only on one device "
                "without gradient accumulation"
            )
        passes = min(2 * self._passes, texts)
        self._max_tokens = tokens // passes
        log.warning("%s: micro-batches of this size are split into %d passes, with equal gradients", problem, passes)
