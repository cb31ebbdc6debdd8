"""What the options of losses and decisions may be."""

import math
from collections.abc import Callable

from counterpoise.errors import UserError

REDUCTIONS = ("mean", "weighted_mean")


def is_number(value: object) -> bool:
    """Returns whether the value is a number, which a truth value is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def setting(name: str, value: float, allowed: Callable[[float], bool], rule: str) -> float:
    """Returns the value of a setting of a loss. Raises UserError where it is not a number that is allowed."""
    if not is_number(value) or not allowed(value):
        raise UserError(f"strategy.loss.{name}={value}: use {rule}")
    return value


def at_least_0(name: str, value: float) -> float:
    """Returns the value of a setting that is finite and 0 or more."""
    return setting(name, value, lambda number: 0 <= number < math.inf, "a number, 0 or more")


def above_0(name: str, value: float) -> float:
    """Returns the value of a setting that is finite and above 0."""
    return setting(name, value, lambda number: 0 < number < math.inf, "a number above 0")


def check_likelihood(label_smoothing: float, reduction: str) -> None:
    """Raises UserError where these are no options of a (binary) cross-entropy."""
    if reduction not in REDUCTIONS:
        raise UserError(f"strategy.loss.reduction={reduction}: use {' or '.join(REDUCTIONS)}")
    if not 0 <= label_smoothing < 1:
        raise UserError(f"strategy.loss.label_smoothing={label_smoothing}: use 0 or more, below 1")


def check_scheme(label_weights: object) -> None:
    """Raises UserError where the label weights of a focal loss are no scheme."""
    if not callable(label_weights):
        raise UserError(
            f"strategy.loss.label_weights={label_weights}: use null or a scheme, such as "
            "{_target_: counterpoise.balance.EffectiveNumber, beta: 0.9}"
        )
