"""AdamW with parameter groups, and learning-rate schedules."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from counterpoise.errors import UserError
from counterpoise.model.embeddings import PrecomputedEmbeddings
from counterpoise.model.encoder import Encoder


@dataclass
class Optim:
    """AdamW and its learning-rate schedule.

    Args:
        encoder_lr: Peak learning rate of the encoder.
        head_lr: Peak learning rate of the head.
        layer_decay: Factor of the learning rate of each layer relative to the layer above it.
        weight_decay: Weight decay of matrices. Biases and norms have none.
        betas: Decay rates of the moments.
        eps: Added to the denominator.
        schedule: "linear", "cosine" or "constant" after the warm-up.
        warmup: Warm-up as a fraction of all steps (below 1) or as a number of steps.

    References:
        Loshchilov & Hutter, ICLR 2019 (AdamW); Howard & Ruder, ACL 2018 (layer decay).
    """

    encoder_lr: float = 1e-4
    head_lr: float = 1e-3
    layer_decay: float = 1.0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    schedule: str = "linear"
    warmup: float = 0.06

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise UserError(f"optim.schedule={self.schedule}: use {', '.join(SCHEDULES)}")
        self.betas = (float(self.betas[0]), float(self.betas[1]))
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optim.betas={list(self.betas)}: use two numbers of at least 0 and below 1")
        for name in ("encoder_lr", "head_lr", "layer_decay", "weight_decay", "eps"):
            if getattr(self, name) < 0:
                raise UserError(f"optim.{name}={getattr(self, name)}: use a number of at least 0")
        if self.warmup < 0:
            raise UserError(f"optim.warmup={self.warmup}: use a fraction below 1 or a number of steps")

    def build(
        self, encoder: Encoder | PrecomputedEmbeddings, head: nn.Module, steps: int, fused: bool = True
    ) -> tuple[Optimizer, LambdaLR]:
        """Return the optimizer and its schedule over `steps` optimizer steps."""
        optimizer = AdamW(self.groups(encoder, head), betas=self.betas, eps=self.eps, fused=fused)
        warmup = round(self.warmup * steps) if self.warmup < 1 else int(self.warmup)
        shape = SCHEDULES[self.schedule]

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            return shape(min(1.0, (step - warmup) / max(1, steps - warmup)))

        return optimizer, LambdaLR(optimizer, factor)

    def groups(self, encoder: Encoder | PrecomputedEmbeddings, head: nn.Module) -> list[dict]:
        """Return parameter groups with `name`, `lr` and `weight_decay`."""
        top = len(encoder.layers)
        # Distance of a parameter below the last layer. Parameters outside layers and embeddings have distance 0.
        below = {id(p): top - 1 - i for i, layer in enumerate(encoder.layers) for p in layer.parameters()}
        below |= {id(p): top for p in encoder.embeddings.parameters()}
        groups: dict[str, dict] = {}

        def add(parameter: nn.Parameter, name: str, lr: float) -> None:
            decays = parameter.ndim > 1
            name = name if decays else f"{name}.no_decay"
            settings = {"name": name, "lr": lr, "weight_decay": self.weight_decay if decays else 0.0}
            groups.setdefault(name, {**settings, "params": []})["params"].append(parameter)

        for parameter in encoder.parameters():
            depth = below.get(id(parameter), 0)
            name = "encoder" if self.layer_decay == 1 else f"encoder.{top - depth}"
            add(parameter, name, self.encoder_lr * self.layer_decay**depth)
        for parameter in head.parameters():
            add(parameter, "head", self.head_lr)
        return list(groups.values())


SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "constant": lambda progress: 1.0,
}
