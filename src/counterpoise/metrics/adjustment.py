"""The map from the logits of a run to its calibrated logits, and its file `calibration.json`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from counterpoise.balance.validation import is_number
from counterpoise.errors import UserError
from counterpoise.metrics.outcomes import AdjustedLogits


@dataclass(frozen=True)
class Adjustment:
    """The map from logits z to calibrated logits (z - shift) / temperature.

    Args:
        shift: Float64 [C].
        temperature: Above 0. Defaults to 1.
    """

    shift: np.ndarray
    temperature: float = 1.0

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """Return the adjusted logits, float64 [N, C]."""
        return self.lazy(logits)[:]

    def lazy(self, logits: np.ndarray) -> AdjustedLogits:
        """Return the adjusted logits [N, C], computed when a slice is read."""
        return AdjustedLogits(np.asarray(logits), self.shift, self.temperature)


def read_adjustment(path: str | Path, labels: Sequence[str]) -> Adjustment:
    """Read a file that `Calibration.save` wrote.

    Args:
        path: calibration.json of a run.
        labels: Names of the C labels; they set the order of the shift.

    Raises:
        UserError: The file is missing or unreadable, has other labels, or holds a value that is not a finite number.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        shift, temperature = content["shift"], content["temperature"]
        values = [shift[label] for label in labels]
        if len(shift) != len(labels):
            raise KeyError(next(name for name in shift if name not in set(labels)))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: the run was not calibrated") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except KeyError as error:
        raise UserError(f"{path} does not match the labels of the run, or is incomplete: {error}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not a calibration file of a run ({error})") from error
    if not all(is_number(value) and np.isfinite(value) for value in [*values, temperature]) or temperature <= 0:
        raise UserError(f"{path}: the temperature must be above 0 and the shift of each label a finite number")
    return Adjustment(np.array(values, np.float64), float(temperature))
