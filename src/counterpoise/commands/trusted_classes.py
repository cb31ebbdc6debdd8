"""Build objects from the configuration of a folder that may come from elsewhere: only allowed classes are built."""

import inspect
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from counterpoise.errors import UserError

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
    from hydra.utils import get_object  # Most exported models build no class and need no Hydra.

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
        _check_numbers(found, arguments)
        return partial(found, **arguments) if bound else found(**arguments)
    except TypeError as error:
        raise UserError(f"config.yaml: {target} does not accept its arguments in this version: {error}") from error


def _check_numbers(found: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Raise TypeError for arguments that are declared as numbers or booleans and are neither.

    Most are first used long after the object is built.
    """
    for name, parameter in inspect.signature(found).parameters.items():
        declared = set(get_args(parameter.annotation) or [parameter.annotation])
        accepted = declared | ({int} if float in declared else set())
        if name in arguments and declared <= {bool, int, float, NoneType} and type(arguments[name]) not in accepted:
            raise TypeError(f"{name}={arguments[name]!r}")
