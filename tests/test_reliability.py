"""Every test that docs/reliability.md names exists."""

import re

import pytest

from commandline import ROOT

SOURCES = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
ROWS = [line for line in (ROOT / "docs/reliability.md").read_text(encoding="utf-8").splitlines() if "`test_" in line]


def test_the_promises_are_found():
    assert len(ROWS) > 20


@pytest.mark.parametrize("name", sorted({name for row in ROWS for name in re.findall(r"`(test_\w+)`", row)}))
def test_a_named_test_exists(name):
    assert f"def {name}(" in SOURCES
