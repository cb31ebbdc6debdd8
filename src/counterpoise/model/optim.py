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
    """AdamW (Loshchilov & Hutter, ICLR 2019) and its schedule.

    encoder_lr and head_lr: peak learning rates. layer_decay: each layer below the last learns by this factor less
    (Howard & Ruder, ACL 2018). weight_decay: on matrices only, not on biases and norms. schedule: "linear",
    "cosine" or "constant" after the warm-up. warmup: a fraction of all optimiser steps (below 1) or their number.
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
            raise UserError(f"optim.betas={list(self.betas)}: each is 0 or more, below 1")
        for name in ("encoder_lr", "head_lr", "layer_decay", "weight_decay", "eps"):
            if getattr(self, name) < 0:
                raise UserError(f"optim.{name}={getattr(self, name)}: use 0 or more")
        if self.warmup < 0:
            raise UserError(f"optim.warmup={self.warmup}: a fraction below 1 or a number of steps")

    def build(
        self, encoder: Encoder | PrecomputedEmbeddings, head: nn.Module, steps: int, fused: bool = True
    ) -> tuple[Optimizer, LambdaLR]:
        """Returns the optimiser and its schedule over `steps` optimiser steps."""
        optimiser = AdamW(self.groups(encoder, head), betas=self.betas, eps=self.eps, fused=fused)
        warmup = round(self.warmup * steps) if self.warmup < 1 else int(self.warmup)
        shape = SCHEDULES[self.schedule]

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            return shape(min(1.0, (step - warmup) / max(1, steps - warmup)))

        return optimiser, LambdaLR(optimiser, factor)

    def groups(self, encoder: Encoder | PrecomputedEmbeddings, head: nn.Module) -> list[dict]:
        """Returns parameter groups, each with its `name`, `lr` and `weight_decay`."""
        top = len(encoder.layers)
        # How far below the last layer a parameter sits; what is neither embedding nor layer sits on top.
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
