"""Text classification on imbalanced classes with PyTorch Lightning and Hydra.

model = counterpoise.load("outputs/DATE/TIME")
model.predict(["a text", "another"]).labels
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from counterpoise.commands.text_classifier import TextClassifier


def load(
    folder: str | Path, device: str = "auto", precision: str = "auto", allow: Sequence[str] = ()
) -> "TextClassifier":
    """Return the model of a finished run, of an ensemble, or of an exported folder.

    Args:
        folder: The folder. An exported one is loaded without importing PyTorch.
        device: "cpu", "cuda", or "auto": a GPU if there is one (default).
        precision: Precision of a run's model: "fp32", "bf16", or "auto": bf16 on a GPU with bfloat16 units, otherwise
            fp32 (default).
        allow: Packages whose classes the run's config.yaml may name, besides this package and the project in the
            working directory.

    Raises:
        UserError: The folder holds no model, or its parts do not fit each other.
    """
    from counterpoise.commands.text_classifier import TextClassifier
    from counterpoise.commands.trusted_classes import allowed_packages

    return TextClassifier.load(Path(folder), device, precision, allowed_packages(allow))
