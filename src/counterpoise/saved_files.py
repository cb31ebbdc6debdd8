"""Reading of files that a run has written and that may be damaged, or come from elsewhere."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from counterpoise.errors import UserError, one_line

MAX_BYTES = 2**26
"""Largest JSON or YAML file. Those of a run are far smaller."""
MAX_NODES = 100_000
"""Largest number of values in a YAML file: reading one takes about 10 microseconds."""
MAX_DEPTH = 50
"""Largest nesting of a YAML file."""


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Raise whatever goes wrong while saved files are read and interpreted as a UserError of one line.

    Args:
        path: File or folder that the message names.
    """
    try:
        yield
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # What parsers and constructors raise for arbitrary content has no common class.
        raise UserError(
            f"{path} is damaged or of another version: {type(error).__name__}: {one_line(error)}"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        UserError: The file cannot be read or does not hold a JSON object.
    """
    with reading(path):
        return _require(dict, json.loads(_read(path)))


def read_yaml(path: Path, kind: type = dict) -> Any:
    """Return the mapping, or the list, in a YAML file.

    Aliases are refused: no run writes them, and a few lines of them can stand for more values than fit into memory, or
    for a mapping that contains itself.

    Raises:
        UserError: The file cannot be read, is too large or too deeply nested, or holds other than plain values.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with reading(path):
        text, depth = _read(path), 0
        for number, event in enumerate(yaml.parse(text, Loader=loader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"it has the alias *{event.anchor}")
            if depth > MAX_DEPTH or number > MAX_NODES:
                raise ValueError(f"it has more than {MAX_DEPTH} levels or {MAX_NODES:,} values")
        return _require(kind, yaml.load(text, loader))


def _read(path: Path) -> str:
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES >> 20} MiB")
    return path.read_text(encoding="utf-8")


def _require(kind: type, content: Any) -> Any:
    if not isinstance(content, kind):
        found = "nothing" if content is None else f"a value of type {type(content).__name__}"
        raise ValueError(f"it holds {found}, not {'named values' if kind is dict else 'a list'}")
    return content
