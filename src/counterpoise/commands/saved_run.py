"""Load the trained model of a finished run from its folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from counterpoise.commands.run_config import read_config
from counterpoise.commands.trusted_classes import PACKAGE, build
from counterpoise.errors import UserError
from counterpoise.metrics import registry
from counterpoise.model.heads import rebuild_head
from counterpoise.model.module import Classifier
from counterpoise.model.optim import Optim
from counterpoise.saved_files import reading
from counterpoise.training.checkpoints import load_checkpoint
from counterpoise.training.encoder_record import check_config, check_weights


def load_run(run: Path, packages: Sequence[str] = (PACKAGE,)) -> tuple[Classifier, dict[str, Any]]:
    """Return the trained model of a run folder in evaluation mode, and the run's configuration.

    Args:
        run: Run folder.
        packages: Packages whose classes may be built. See `trusted_classes.allowed_packages`.

    Raises:
        UserError: The folder is not a run, or its parts do not fit each other.
    """
    config = read_config(run)
    with reading(run):
        return _build_model(run, config, packages), config


def _build_model(run: Path, config: dict[str, Any], packages: Sequence[str]) -> Classifier:
    registry.load(path for path in config.get("metrics") or () if str(path).partition(".")[0] in packages)
    checkpoint = load_checkpoint(run / "checkpoints" / "best.ckpt")
    labels, state = checkpoint["labels"], checkpoint["state_dict"]
    if not all(isinstance(label, str) for label in labels):
        raise ValueError("the labels of the checkpoint are not names")
    config["encoder"].pop("compile", None)  # compiling takes longer than most predictions
    source = build(config["encoder"], packages)
    check_config(run, source)
    encoder = source.load()
    decision = build(config["decision"] | {"file": None}, packages) if "scoring.thresholds" in state else None
    bounds = build(config["buckets"], packages)
    counts = np.zeros(len(labels), np.int64)
    model = Classifier(encoder, None, Optim(), labels, counts, batch_size=1, decision=decision, bounds=bounds)
    model.head_factory = build(config["head"], packages)
    model.head = rebuild_head(model.head_factory, encoder.size, len(labels), state)
    missing, unexpected = model.load_state_dict(state, strict=False)
    # A linear probe's checkpoint has no encoder weights.
    left_out = {name for name in model.state_dict() if name.startswith("encoder.")} if config.get("probe") else set()
    if left_out:
        check_weights(run, source, encoder)
    if unexpected or set(missing) != left_out:
        raise UserError(f"{run}: the checkpoint does not fit the model of config.yaml")
    return model.eval()
