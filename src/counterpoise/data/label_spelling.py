"""Labels that differ only in their spelling: letter case, Unicode forms, invisible characters, number notation."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from counterpoise.data.arrow_columns import build_lists, flatten_lists, is_list

INVISIBLE = {"Cf", "Cc"}
"""Unicode categories of characters that are not visible: format and control characters."""
NUMBER = re.compile(r"([+-]?)0*(\d+)(?:\.(\d*?)0*)?")


def spelling_key(label: str) -> str:
    """Return a key that labels share if they differ only in spelling.

    The key ignores letter case, Unicode compatibility forms (NFKC), invisible characters, the amount of white space,
    and leading or trailing zeros of numbers.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).casefold())
    visible = "".join(c for c in folded if c.isspace() or unicodedata.category(c) not in INVISIBLE)
    key = " ".join(visible.split())
    if number := NUMBER.fullmatch(key):
        sign, whole, fraction = number[1], number[2], number[3]
        value = f"{whole}.{fraction}" if fraction else whole
        key = f"-{value}" if sign == "-" and value.strip("0.") else value
    return key or label


def label_counts_of(labels: pa.Array) -> dict[str, int]:
    """Return the number of rows of each label.

    Args:
        labels: string [N] or list<string> [N].
    """
    values = flatten_lists(labels)[1] if is_list(labels.type) else labels
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(values).to_pylist()}


def by_frequency(counts: Mapping[str, int]) -> list[str]:
    """Return the labels, the most frequent first."""
    return sorted(counts, key=lambda label: (-counts[label], label))


def variants(counts: Mapping[str, int]) -> list[list[str]]:
    """Return the groups of labels that differ only in spelling, the most frequent spelling of each group first."""
    groups: dict[str, list[str]] = {}
    for label in by_frequency(counts):
        groups.setdefault(spelling_key(label), []).append(label)
    return [group for group in groups.values() if len(group) > 1]


def canonical_spellings(labels: Iterable[str], preferred: Sequence[str]) -> dict[str, str]:
    """Return the spelling that replaces each of `labels`.

    Args:
        labels: Labels.
        preferred: Spellings to use, the most important first. A label without one keeps its own spelling.
    """
    by_key: dict[str, str] = {}
    for name in preferred:
        by_key.setdefault(spelling_key(name), name)
    return {label: by_key.get(spelling_key(label), label) for label in labels}


def replace_labels(labels: pa.Array, spellings: Mapping[str, str]) -> pa.Array:
    """Return the labels with other spellings. Labels that become equal within a row count once.

    Args:
        labels: string [N] or list<string> [N].
        spellings: New spelling of each label.
    """
    rows, values = flatten_lists(labels) if is_list(labels.type) else (None, labels)
    encoded = values.dictionary_encode()
    new = pa.array([spellings.get(name, name) for name in encoded.dictionary.to_pylist()], pa.string())
    values = new.take(encoded.indices)
    if rows is None:
        return values
    codes = values.dictionary_encode()
    pairs = pa.table({"row": rows, "code": codes.indices, "place": pa.array(range(len(rows)))})
    first = pairs.group_by(["row", "code"]).aggregate([("place", "min")])["place_min"].sort().to_numpy()
    return build_lists(rows[first], values.take(pa.array(first)), len(labels))


def format_variants(counts: Mapping[str, int], limit: int = 5) -> str:
    """Return the labels that differ only in spelling, with their counts: "'a' (3) and 'A' (1); ...", or ""."""
    groups = variants(counts)
    shown = "; ".join(" and ".join(f"{name!r} ({counts[name]:,})" for name in group) for group in groups[:limit])
    return shown + (f"; and {len(groups) - limit} more" if len(groups) > limit else "")
