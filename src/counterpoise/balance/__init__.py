"""The balance law: samplers, weights and losses as pure functions of the training counts.

n_c is the number of training examples of class c. The sampler draws class c with probability
q_c ~ n_c^(1 - alpha), the loss weighs it by w_c ~ n_c^(-beta), and its effective prior is
e_c = q_c w_c ~ n_c^(1 - alpha - beta). In multi-label data each label is a problem of two classes.
Nothing in here knows of Lightning or Hydra.
"""

from counterpoise.balance.correction import Correction
from counterpoise.balance.counts import ClassIndex
from counterpoise.balance.losses.margin import LDAM, LogitAdjusted
from counterpoise.balance.losses.multi_label import Asymmetric, BinaryCrossEntropy, DistributionBalanced, Focal
from counterpoise.balance.losses.single_label import CrossEntropy, SoftmaxFocal, cross_entropy, focal
from counterpoise.balance.samplers import Blend, PowerSampler, RepeatFactorSampler, Sampler
from counterpoise.balance.schedule import Deferred, Progressive
from counterpoise.balance.strategy import EpochCorrection, FittedStrategy, Strategy
from counterpoise.balance.weights import EffectiveNumber, InverseFrequency, ManualWeights

__all__ = [
    "LDAM",
    "Asymmetric",
    "BinaryCrossEntropy",
    "Blend",
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
    "ManualWeights",
    "PowerSampler",
    "Progressive",
    "RepeatFactorSampler",
    "Sampler",
    "SoftmaxFocal",
    "Strategy",
    "cross_entropy",
    "focal",
]
