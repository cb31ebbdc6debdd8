"""Correction of class imbalance: samplers, class weights and losses as functions of the class counts.

n_c is the number of training examples of class c. The sampler draws class c with probability q_c ~ n_c^(1 - alpha), the
loss weights it by w_c ~ n_c^(-beta), and its effective prior is e_c = q_c w_c ~ n_c^(1 - alpha - beta). In multi-label
data each label is a binary problem. The package does not depend on Lightning or Hydra. For example::

    index = ClassIndex.from_targets(targets, len(labels))
    fitted = Strategy(PowerSampler(0.5), InverseFrequency(0.5)).fit(labels, index)
    rows = fitted.final.sampler.draw(index, np.random.default_rng(0))
    loss = fitted.final.loss(logits, targets)

Names are imported when they are first used, because the losses import PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from counterpoise.balance.correction import Correction
    from counterpoise.balance.counts import ClassIndex
    from counterpoise.balance.losses.by_task import cross_entropy, focal
    from counterpoise.balance.losses.distribution_balanced import DistributionBalanced
    from counterpoise.balance.losses.margin import LDAM, LogitAdjusted
    from counterpoise.balance.losses.multi_label import Asymmetric, BinaryCrossEntropy, Focal, MultiLabelLoss
    from counterpoise.balance.losses.protocol import BaseLoss, Loss
    from counterpoise.balance.losses.single_label import CrossEntropy, SingleLabelLoss, SoftmaxFocal
    from counterpoise.balance.samplers import MixtureSampler, PowerSampler, RepeatFactorSampler, Sampler
    from counterpoise.balance.schedule import Deferred, Progressive
    from counterpoise.balance.strategy import EpochCorrection, FittedStrategy, Strategy
    from counterpoise.balance.weights import EffectiveNumber, InverseFrequency, ManualWeights

__all__ = [
    "LDAM",
    "Asymmetric",
    "BaseLoss",
    "BinaryCrossEntropy",
    "ClassIndex",
    "Correction",
    "CrossEntropy",
    "Deferred",
    "DistributionBalanced",
    "EffectiveNumber",
    "EpochCorrection",
    "FittedStrategy",
    "Focal",
    "InverseFrequency",
    "LogitAdjusted",
    "Loss",
    "ManualWeights",
    "MixtureSampler",
    "MultiLabelLoss",
    "PowerSampler",
    "Progressive",
    "RepeatFactorSampler",
    "Sampler",
    "SingleLabelLoss",
    "SoftmaxFocal",
    "Strategy",
    "cross_entropy",
    "focal",
]

_MODULES = (
    "correction",
    "counts",
    "samplers",
    "schedule",
    "weights",
    "strategy",
    "losses.by_task",
    "losses.distribution_balanced",
    "losses.margin",
    "losses.multi_label",
    "losses.protocol",
    "losses.single_label",
)
"""Modules that hold the public names. Those that import PyTorch come last."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            found = vars(import_module(f"{__name__}.{module}"))
            if name in found:
                return found[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
