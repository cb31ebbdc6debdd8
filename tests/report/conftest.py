"""Fixture: pages opened from disk in a browser."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import Opened


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Opened]]:
    """Opens a page from disk in a context of its own; keywords as playwright's `new_context` takes them."""
    contexts = []

    def open_it(path: Path, **settings: Any) -> Opened:
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | settings))
        return Opened(contexts[-1].new_page(), path)

    yield open_it
    for context in contexts:
        context.close()
