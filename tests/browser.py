"""A headless Chromium that opens pages from disk and records their errors."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Opened:
    """A page opened from disk, with its console messages, script errors and external requests (`complaints`)."""

    def __init__(self, page: Any, path: Path) -> None:
        self.page, self.complaints = page, []
        page.on("console", lambda message: self.complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("request", lambda request: self._record(request.url, path))
        self.load(path)

    def load(self, path: Path) -> None:
        """Open the page and wait until all figures are drawn."""
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-drawn]", timeout=300_000, state="attached")

    def wait_for(self, expression: str, wanted: object) -> None:
        """Wait until a JavaScript expression has a value. The policy of the pages forbids `wait_for_function`."""
        for _ in range(600):
            if self.page.evaluate(expression) == wanted:
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"{expression} is {self.page.evaluate(expression)}, not {wanted}")

    def _record(self, url: str, path: Path) -> None:
        if url.split("#")[0] != path.as_uri() and not url.startswith(("data:", "blob:")):
            self.complaints.append(f"request: {url}")


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a playwright browser, or skip the test if Chromium or playwright is missing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the PATH")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
