"""A real browser, Debian's Chromium, driven by Playwright: for what is measured, tested and shown of the dashboard."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.sources import UnavailableError

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip

IS_SHOWN = "document.getElementById('status').textContent.startsWith('as of')"
"""Whether the dashboard has drawn all that it asked for."""


def chromium() -> str:
    """Where the browser is. Raises ``UnavailableError`` where it, or what drives it, is missing."""
    path = shutil.which("chromium")
    if path is None:
        raise UnavailableError("chromium is not installed: apt-get install chromium (`make debian` does)")
    if importlib.util.find_spec("playwright") is None:
        raise UnavailableError("playwright is not installed: pip install 'bandmaster[browser]'")
    return path


@contextmanager
def browsing() -> Iterator[Any]:
    """The browser, until it is closed. Raises ``UnavailableError`` as ``chromium`` does."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()
