"""Packed batches: the texts of a batch concatenated without padding, with attention within each text.

A packed batch has input_ids [N], the tokens of all texts, and the attention_mask [B, T] of the padded batch. The shape
of the mask gives the host the length of the longest text without a device synchronisation. Hidden states are padded
again before pooling.

`IMPLEMENTATION` is registered as an attention implementation of transformers (`AttentionInterface`). Encoders that take
position_ids and pass keyword arguments on to their attention can be packed; `check` tests it. Padded batches use SDPA.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from counterpoise.errors import UserError

IMPLEMENTATION = "packed"


@dataclass
class Packing:
    """Boundaries of the texts in a packed batch.

    Args:
        bounds: int32 [B + 1] on the device. Text i is at bounds[i]:bounds[i + 1].
        longest: Number of tokens of the longest text.
    """

    bounds: Tensor
    longest: int

    @cached_property
    def runs(self) -> list[tuple[int, int]]:
        """Numbers of consecutive texts of equal length, and these lengths. Synchronises with the device."""
        return [(len(list(run)), length) for length, run in groupby(self.bounds.diff().tolist())]


def last_hidden(backbone: nn.Module, input_ids: Tensor, attention_mask: Tensor, first: int = 0) -> Tensor:
    """Return the last hidden states of a packed batch, padded with zeros, [B, T, H].

    Args:
        backbone: The transformer.
        input_ids: Token ids, int64 [N].
        attention_mask: Mask of the padded batch, [B, T].
        first: Number of the first position. See `first_position`.
    """
    size = attention_mask.shape
    # The number of places is known, so no synchronisation is needed.
    places = torch.nonzero_static(attention_mask.flatten(), size=len(input_ids)).squeeze(1)
    bounds = nn.functional.pad(attention_mask.sum(1).cumsum(0), (1, 0)).to(torch.int32)
    hidden: Tensor = backbone(
        input_ids=input_ids[None],
        position_ids=(places % size[1] + first)[None],
        packing=Packing(bounds, size[1]),
    ).last_hidden_state[0]
    return hidden.new_zeros(size.numel(), hidden.shape[1]).index_copy(0, places, hidden).unflatten(0, size)


def first_position(backbone: nn.Module) -> int:
    """Return the number of a text's first position. In RoBERTa and similar models it follows that of padding."""
    for name, module in backbone.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.padding_idx + 1
    return 0


@torch.no_grad()
def check(encoder: nn.Module, name: str) -> None:
    """Raise UserError unless packed and padded texts have equal vectors, up to rounding.

    An encoder with an attention of its own would let the texts of a packed batch attend to each other without an error.
    """
    vocabulary: Any = encoder.backbone.config.vocab_size  # type: ignore[union-attr]
    ids = torch.randint(5, vocabulary, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(9) < torch.tensor([[9], [4]])).long()
    training, _ = encoder.training, encoder.eval()
    padded, reason = encoder(ids, mask), ""
    try:
        packed = encoder(ids[mask.bool()], mask)
        equal = packed.shape == padded.shape and bool((packed - padded).abs().max() < 1e-3 * padded.abs().max())
    except Exception as error:
        equal, reason = False, f" ({' '.join(str(error).split())[:100]})"
    finally:
        encoder.train(training)
    if not equal:
        raise UserError(f"encoder.packed: {name} does not support packed batches{reason}. Use encoder.packed=false")


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packing: Packing | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Return attention within each text, [1, N, heads, D].

    Args:
        module: The attention module.
        query: [1, heads, N, D].
        key: [1, heads, N, D].
        value: [1, heads, N, D].
        attention_mask: Mask of a padded batch.
        dropout: Dropout probability of attention weights.
        scaling: Scale of the scores.
        packing: Boundaries of the texts; None for a padded batch.
        sliding_window: Distance below which tokens attend to each other.
        **options: Further arguments of the implementation.
    """
    if packing is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, sliding_window=sliding_window, **options
        )
    if not _has_kernel(query, dropout):
        return _by_text(query, key, value, packing, dropout, scaling, sliding_window), None
    # The kernel takes the number of neighbours on each side.
    reach = -1 if sliding_window is None else sliding_window - 1
    queries, keys, values = (states[0].transpose(0, 1) for states in (query, key, value))
    bounds, longest = packing.bounds, packing.longest
    attended = varlen_attn(
        queries, keys, values, bounds, bounds, longest, longest, scale=scaling, window_size=(reach, reach)
    )
    assert isinstance(attended, Tensor)  # no log-sum-exp was requested
    return attended[None], None


def _has_kernel(query: Tensor, dropout: float) -> bool:
    """Return whether the variable-length flash kernel can be used. It has no dropout."""
    return (
        query.is_cuda
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] % 8 == 0
        and dropout == 0
    )


@torch.compiler.disable
def _by_text(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packing: Packing,
    dropout: float,
    scaling: float | None,
    sliding_window: int | None,
) -> Tensor:
    """Attend text by text, with consecutive texts of equal length as one batch."""
    sizes = [count * length for count, length in packing.runs]
    parts = []
    for (count, length), *states in zip(
        packing.runs, *(states[0].split(sizes, 1) for states in (query, key, value)), strict=True
    ):
        queries, keys, values = (part.unflatten(1, (count, length)).transpose(0, 1) for part in states)
        near = None
        if sliding_window is not None and length > sliding_window:
            position = torch.arange(length, device=query.device)
            near = (position[:, None] - position).abs() < sliding_window
        attended = nn.functional.scaled_dot_product_attention(
            queries, keys, values, near, dropout_p=dropout, scale=scaling
        )
        parts.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)[None]


def _mask(*, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """Return the mask of a padded batch; None for a packed one."""
    return None if attention_mask is None else sdpa_mask(attention_mask=attention_mask, **options)


AttentionInterface.register(IMPLEMENTATION, attend)
AttentionMaskInterface.register(IMPLEMENTATION, _mask)
