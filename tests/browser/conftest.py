"""A real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.browser import IS_SHOWN, browsing


def until(page: Any, expression: str, arg: Any = None, within_s: float = 30.0) -> None:
    """Wait until something is so in the page. Playwright's own way needs ``eval``, which the page forbids."""
    end = time.monotonic() + within_s
    while not page.evaluate(expression, arg):
        assert time.monotonic() < end, f"not within {within_s:g} s: {expression}; {page.text_content('#status')}"
        page.wait_for_timeout(50)


def opened(tab: Tab, address: str) -> Any:
    """The dashboard, once it has drawn something."""
    tab.page.goto(address)
    until(tab.page, IS_SHOWN)
    return tab.page


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browsing() as browser:
        yield browser


class Tab:
    """A page, and everything that went wrong in it."""

    def __init__(self, page: Any) -> None:
        self.page, self.wrong = page, list[str]()
        page.on("console", lambda said: self.wrong.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda problem: self.wrong.append(str(problem)))


@pytest.fixture
def tab(chromium: Any) -> Iterator[Tab]:
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    tab = Tab(context.new_page())
    yield tab
    context.close()
    assert tab.wrong == []
