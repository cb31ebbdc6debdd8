"""The balance law: samplers, class weights and losses as pure functions of the class counts.

n_c is the number of training examples of class c. The sampler draws class c with probability
q_c ~ n_c^(1 - alpha), the loss weighs it by w_c ~ n_c^(-beta), and its emphasis is
e_c = q_c w_c ~ n_c^(1 - alpha - beta). Nothing in here knows of Lightning or Hydra.
"""

from counterpoise.balance.losses import CrossEntropy
from counterpoise.balance.samplers import ClassIndex, PowerSampler
from counterpoise.balance.strategy import Balance, Strategy
from counterpoise.balance.weights import EffectiveNumber, Manual, Power

__all__ = [
    "Balance",
    "ClassIndex",
    "CrossEntropy",
    "EffectiveNumber",
    "Manual",
    "Power",
    "PowerSampler",
    "Strategy",
]
