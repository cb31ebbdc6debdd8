"""Validation of the settings of samplers, weight schemes and losses."""

import math
from collections.abc import Callable
from numbers import Real

from counterpoise.errors import UserError


def is_number(value: object) -> bool:
    """Return whether the value is a number; booleans are not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_number(name: str, value: float, allowed: Callable[[float], bool], rule: str, part: str = "loss") -> float:
    """Return the value of a numeric setting.

    Args:
        name: Name of the setting, for the message.
        value: Its value.
        allowed: Returns whether a number is allowed.
        rule: Description of allowed values, for the message.
        part: Part of the strategy that has the setting, for the message. Defaults to the loss.

    Raises:
        UserError: The value is not a number, or not allowed.
    """
    if not is_number(value) or not allowed(value):
        raise UserError(f"strategy.{part}.{name}={value}: use {rule}")
    return value


def check_exponent(name: str, value: float, part: str) -> float:
    """Return the value of an exponent of the class counts, which must be in [0, 10].

    Larger powers of class counts underflow, and negative ones favour large classes.
    """
    return check_number(name, value, lambda number: 0 <= number <= 10, "a number from 0 to 10", part)


def check_flag(key: str, value: bool) -> bool:
    """Return the value of a setting that must be true or false.

    Raises:
        UserError: The value is something else.
    """
    if not isinstance(value, bool):
        raise UserError(f"strategy.{key}={value}: use true or false")
    return value


def check_non_negative(name: str, value: float) -> float:
    """Return the value of an option that must be finite and at least 0."""
    return check_number(name, value, lambda number: 0 <= number < math.inf, "a number, at least 0")


def check_positive(name: str, value: float) -> float:
    """Return the value of an option that must be finite and above 0."""
    return check_number(name, value, lambda number: 0 < number < math.inf, "a number above 0")


def check_label_smoothing(value: float) -> float:
    """Return the label smoothing, which must be in [0, 1)."""
    return check_number("label_smoothing", value, lambda number: 0 <= number < 1, "a number, at least 0 and below 1")


def check_weight_scheme(label_weights: object) -> None:
    """Raise an error if the label weights of a focal loss are not a weight scheme."""
    if not callable(label_weights):
        raise UserError(
            f"strategy.loss.label_weights={label_weights}: use null or a weight scheme, such as "
            "{_target_: counterpoise.balance.EffectiveNumber, beta: 0.9}"
        )
