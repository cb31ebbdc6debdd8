"""Load a finished run from its folder, which may come from elsewhere: only allowed classes are built."""

import tomllib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import get_object

from counterpoise.commands.run_config import read_config
from counterpoise.errors import UserError
from counterpoise.metrics import registry
from counterpoise.model.heads import rebuild_head
from counterpoise.model.module import Classifier
from counterpoise.model.optim import Optim
from counterpoise.saved_files import reading
from counterpoise.training.checkpoints import load_checkpoint
from counterpoise.training.encoder_record import check_config, check_weights

PACKAGE = "counterpoise"


def allowed_packages(given: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the packages whose classes a run's config.yaml may name.

    These are this package, the package of the project in the working directory (`[project] name` of ./pyproject.toml),
    and the given ones. A run folder cannot add to them.
    """
    project = Path("pyproject.toml")
    names = [PACKAGE, *given]
    if project.is_file():
        try:
            name = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {}).get("name")
        except (tomllib.TOMLDecodeError, UnicodeDecodeError):
            name = None
        names += [str(name).replace("-", "_").lower()] if name else []
    return tuple(dict.fromkeys(names))


def build(node: Any, packages: Sequence[str] = (PACKAGE,)) -> Any:
    """Return the object that a part of a run's configuration describes. Nothing is interpolated.

    Args:
        node: A value, list or mapping of config.yaml.
        packages: Packages whose classes may be built, and whose functions may be bound with `_partial_`.

    Raises:
        UserError: A `_target_` is missing, or outside the packages, or takes other arguments.
    """
    if isinstance(node, list):
        return [build(item, packages) for item in node]
    if not isinstance(node, dict):
        return node
    special = ("_target_", "_partial_")
    arguments = {key: build(value, packages) for key, value in node.items() if key not in special}
    if "_target_" not in node:
        return arguments
    target, bound = str(node["_target_"]), bool(node.get("_partial_"))
    package = target.partition(".")[0]
    try:
        found = get_object(target) if package in packages else None
    except (ImportError, AttributeError) as error:
        raise UserError(f"config.yaml: {target} does not exist in the installed {package}") from error
    # A name of an allowed package may be imported from elsewhere: what counts is where it is defined.
    defined_in = str(getattr(found, "__module__", "")).partition(".")[0]
    if defined_in not in packages or not (isinstance(found, type) or (bound and callable(found))):
        raise UserError(
            f"config.yaml: {target} is not a class of {' or '.join(packages)}. If you trust the package, allow it with "
            f"--allow {package}"
        )
    try:
        return partial(found, **arguments) if bound else found(**arguments)
    except TypeError as error:
        raise UserError(f"config.yaml: {target} does not accept its arguments in this version: {error}") from error


def load_run(run: Path, packages: Sequence[str] = (PACKAGE,)) -> tuple[Classifier, dict[str, Any]]:
    """Return the trained model of a run folder in evaluation mode, and the run's configuration.

    Args:
        run: Run folder.
        packages: Packages whose classes may be built. See `allowed_packages`.

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
