"""The search space of `sweep=optuna`, written in Hydra's grammar: choice, interval and range."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Transformer

from counterpoise.analysis.job_folders import Job
from counterpoise.balance.validation import is_number
from counterpoise.errors import UserError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

INCOMPARABLE = (
    ("seed", "the best of several seeds is luck; search with one seed, then compare the best setting with several"),
    ("data", "scores on different texts are not comparable"),
    ("experiment", "scores on different texts are not comparable"),
    ("debug", "it changes the training and the metrics"),
    ("ckpt", "a trial cannot resume another run"),
    ("costs", "it does not change the score"),
    ("metrics", "every trial must measure the same"),
    ("monitor", "every trial must measure the same"),
    ("monitor_mode", "every trial must measure the same"),
    ("loader.split_seed", "scores on different texts are not comparable"),
    ("loader.fold", "scores on different texts are not comparable"),
    ("loader.folds", "scores on different texts are not comparable"),
    ("loader.validation_fraction", "scores on different texts are not comparable"),
    ("loader.validation_limit", "scores on different texts are not comparable"),
)
"""Keys that cannot be searched, and why."""
FORMS = "write choice(A,B), interval(LOW,HIGH), int(interval(LOW,HIGH)) or tag(log,interval(LOW,HIGH))"


@dataclass(frozen=True)
class SearchSpace:
    """What the trials of a search vary, and what they have in common.

    Args:
        distributions: Optuna's distribution of each searched key. The options of a choice are texts.
        fixed: The other overrides, the same for all trials.
    """

    distributions: "Mapping[str, BaseDistribution]"
    fixed: Sequence[str]

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """Return the overrides of a trial with these values."""
        return [*self.fixed, *(f"{key}={value}" for key, value in values.items())]

    def describe(self, job: Job) -> str:
        """Return the overrides of a trial's job that others do not share, as text."""
        return " ".join(each for each in job.overrides if each not in self.fixed)


def read_space(params: Mapping[str, Any], arguments: Sequence[str], default: Callable[[str], Any]) -> SearchSpace:
    """Return the search space.

    Args:
        params: Values by key, as in `hydra.sweeper.params`.
        arguments: Overrides of the command line, which replace values of `params`.
        default: Returns the configured value of a key, None if it has none.

    Raises:
        UserError: A range is empty, a value has the wrong type, a key cannot be searched, or nothing is searched.
    """
    given = [f"{key}={option_text(value)}" for key, value in params.items()]
    parsed = OverridesParser.create().parse_overrides([*given, *arguments])
    last = {override.get_key_element().lstrip("+"): override for override in parsed}
    distributions, fixed = {}, []
    for key, override in last.items():
        if override.is_sweep_override():
            _check_key(key, override)
            distributions[override.get_key_element()] = _distribution(override, default(key))
        else:
            assert override.input_line is not None
            fixed.append(override.input_line)
    if not distributions:
        raise UserError(f"sweep=optuna: no key has a range, so that there is nothing to search; {FORMS}")
    return SearchSpace(distributions, fixed)


def _check_key(key: str, override: Override) -> None:
    for name, reason in INCOMPARABLE:
        if key == name or (name == "data" and key.startswith("data.")):
            raise UserError(f"{override.input_line}: {key} cannot be searched: {reason}")


def _distribution(override: Override, default: object) -> "BaseDistribution":
    """Return the distribution of a searched key.

    Args:
        override: The override.
        default: Configured value of the key, which decides its type; None if it is not known.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    line, value = override.input_line, override.value()
    tags: set[str] = getattr(value, "tags", set())
    if tags - {"log"} or ("log" in tags and not isinstance(value, IntervalSweep)):
        raise UserError(f"{line}: the only tag is log, of an interval")
    if isinstance(value, ChoiceSweep):
        for option in value.list:
            _check_type(line, option, default)
        options = [option_text(option) for option in override.sweep_iterator(Transformer.encode)]
        return _ordered(value.list) or CategoricalDistribution(list(dict.fromkeys(options)))
    if isinstance(value, RangeSweep):
        numbers = list(value.range())
        if not numbers:
            raise UserError(f"{line}: the range is empty")
        for number in numbers:
            _check_type(line, number, default)
        return _ordered(numbers) or CategoricalDistribution(list(map(str, numbers)))
    if not isinstance(value, IntervalSweep):
        raise UserError(f"{line}: {FORMS}")
    low, high = value.start, value.end
    if not (is_number(low) and is_number(high) and low < high):  # type: ignore[operator]
        raise UserError(f"{line}: the interval is empty; the first number must be below the second")
    if "log" in tags and low <= 0:  # type: ignore[operator]
        raise UserError(f"{line}: a logarithmic interval needs bounds above 0")
    _check_type(line, low, default)
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log="log" in tags)
    return FloatDistribution(float(low), float(high), log="log" in tags)  # type: ignore[arg-type]


def _ordered(options: Sequence[object]) -> "BaseDistribution | None":
    """Return the distribution of evenly spaced numbers, which keeps their order; None for other options."""
    from optuna.distributions import FloatDistribution, IntDistribution

    if not all(is_number(option) for option in options):
        return None
    numbers = sorted({Decimal(str(option)) for option in options})
    steps = {after - before for before, after in pairwise(numbers)}
    if len(steps) != 1:
        return None
    low, high, step = numbers[0], numbers[-1], steps.pop()
    if all(isinstance(option, int) for option in options):
        return IntDistribution(int(low), int(high), step=int(step))
    return FloatDistribution(float(low), float(high), step=float(step))


def option_text(value: object) -> str:
    """Return a value as it is written in an override."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _check_type(line: str | None, value: object, default: object) -> None:
    """Raise UserError for a number, or true or false, in place of another type."""
    if value is None or default is None:
        return
    if isinstance(default, bool):
        fits, kind = isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        fits = isinstance(value, int) and not isinstance(value, bool)
        kind = "a whole number; for a range write int(interval(LOW,HIGH))"
    elif isinstance(default, float):
        fits, kind = is_number(value), "a number"
    else:
        fits, kind = not isinstance(value, float), "a name; write choice(A,B)"
    if not fits:
        raise UserError(f"{line}: the value must be {kind}")
