"""What the dashboard takes of a service's throughput while people look at it: by turns, with and without them."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import aiohttp
import numpy as np

from bandmaster import demo
from bandmaster.core import FloatArray
from bandmaster.intervals import t_interval
from benchmarks.browser import FLAGS, IS_SHOWN, chromium
from benchmarks.scenario import PageCost
from benchmarks.sources import Place

IMAGES = 500
SETTLING_S = 2.0
"""Until whoever looks, or looks no more, is there or gone."""

PEOPLE, BROWSER = "people", "browser"
"""Who looks: what a page in front of somebody asks for, from elsewhere; or real tabs, drawn on the same machine."""

REFRESH_S = 2.0
ASKED = (
    "about", "series?from={start:.0f}&to={end:.0f}", "events?from={start:.0f}", "decisions?limit=50", "edits", "state",
)  # fmt: skip
"""As the page refreshes itself: how often at most, and what it asks for."""

HOUR_S, STEP_S = 3600.0, 10.0


def measure(scenario: PageCost, place: Place, told: Callable[[str], None]) -> dict[str, float | None]:
    """The figures of ``scenario``: ``lost``, what share of the throughput is lost with so many people looking, and
    ``lost_with_browser``, with so many tabs in a browser on the same machine, with their 95 % intervals. Raises
    ``UnavailableError`` without a browser.
    """
    chromium()
    plan = demo.Demo(demo.find_root(), place.cache / "demo", IMAGES, 0, 1)
    plan.out.mkdir(parents=True, exist_ok=True)
    demo.train(plan)
    (path,) = demo.record(plan, lambda: None)
    images, _ = demo.read_images(path)
    with demo.serving(plan) as address:
        asyncio.run(_throughput(address, images, scenario.callers, scenario.turn_s))  # until everything is warm
        found: dict[str, float | None] = {}
        for who, name in ((PEOPLE, "lost"), (BROWSER, "lost_with_browser")):
            told(f"{scenario.id}: {scenario.turns} turns with and without {who}")
            found |= _lost(scenario, address, images, who, name)
    return found


def _lost(scenario: PageCost, address: str, images: FloatArray, who: str, name: str) -> dict[str, float | None]:
    alone, watched = list[float](), list[float]()
    with _lookers(address, who, scenario.tabs) as look:
        for _ in range(scenario.turns):
            for looking, throughput in ((False, alone), (True, watched)):
                look(looking)
                throughput.append(asyncio.run(_throughput(address, images, scenario.callers, scenario.turn_s)))
        look(False)  # whoever could not look in the last turn says so
    lost = 1.0 - np.array(watched) / np.array(alone)
    low, high = t_interval(lost)
    return {
        name: float(lost.mean()),
        f"{name}_low": low,
        f"{name}_high": high,
        f"{name}_per_s": float(np.median(alone)),
    }


async def _throughput(address: str, images: FloatArray, callers: int, seconds: float) -> float:
    """Requests a second that are answered to so many callers, each with the next as soon as one is answered."""
    bodies = itertools.cycle([{"images": [image.tolist()]} for image in images])
    end = time.monotonic() + seconds
    answered = 0

    async def call(client: aiohttp.ClientSession) -> None:
        nonlocal answered
        while time.monotonic() < end:
            async with client.post("/predict", json=next(bodies)) as reply:
                reply.raise_for_status()
                await reply.read()
            answered += 1

    async with aiohttp.ClientSession(address) as client:
        await asyncio.gather(*(call(client) for _ in range(callers)))
    return answered / seconds


# ---- Who looks, in a process of their own ------------------------------------------------------------------------


@contextmanager
def _lookers(address: str, who: str, tabs: int) -> Iterator[Callable[[bool], None]]:
    command = [sys.executable, "-m", "benchmarks.page_cost", address, who, str(tabs)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        told, done = process.stdin, process.stdout
        assert told is not None and done is not None  # noqa: PT018 they are pipes

        def look(looking: bool) -> None:
            print(looking, file=told, flush=True)
            assert done.readline() == f"{looking}\n", f"{who} cannot look at {address}"
            time.sleep(SETTLING_S)

        yield look
        told.close()


async def _obey(address: str, who: str, tabs: int) -> None:
    """Look, or do not, as the lines on standard input say."""
    async with _people(address) if who == PEOPLE else _tabs(address) as open_tabs:
        while line := await asyncio.to_thread(sys.stdin.readline):
            await open_tabs(tabs if line == "True\n" else 0)
            print(line, end="", flush=True)


@asynccontextmanager
async def _people(address: str) -> AsyncIterator[Callable[[int], Awaitable[None]]]:
    looking: list[asyncio.Task[None]] = []
    async with aiohttp.ClientSession(f"{address}/orchestration/") as client:

        async def people(many: int) -> None:
            for task in looking:
                if task.done():
                    task.result()  # who could not look has cost nothing, which must not count
                task.cancel()
            await asyncio.gather(*looking, return_exceptions=True)
            apart = REFRESH_S / max(many, 1)  # who looks from elsewhere does not ask in step with others
            looking[:] = [asyncio.create_task(_look(client, k * apart)) for k in range(many)]

        yield people
        await people(0)


async def _look(client: aiohttp.ClientSession, after_s: float) -> None:
    """As a page does: refresh, and then when there is news, but then not for ``REFRESH_S``, after which once more where
    there was news meanwhile.
    """
    await asyncio.sleep(after_s)
    await _refresh(client)
    news = asyncio.Event()
    async with asyncio.TaskGroup() as both:
        both.create_task(_listen(client, news))
        while True:
            await news.wait()
            news.clear()
            await _refresh(client)
            await asyncio.sleep(REFRESH_S)


async def _listen(client: aiohttp.ClientSession, news: asyncio.Event) -> None:
    while True:
        async with client.get("stream", headers={"accept": "text/event-stream"}) as stream:
            stream.raise_for_status()
            async for line in stream.content:
                if line.startswith(b"event: news"):
                    news.set()


async def _refresh(client: aiohttp.ClientSession) -> None:
    end = -(-time.time() // STEP_S) * STEP_S

    async def ask(path: str) -> None:
        async with client.get(path.format(start=end - HOUR_S, end=end)) as reply:
            reply.raise_for_status()
            await reply.read()

    await asyncio.gather(*map(ask, ASKED))


@asynccontextmanager
async def _tabs(address: str) -> AsyncIterator[Callable[[int], Awaitable[None]]]:
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=FLAGS)

        async def tabs(many: int) -> None:
            for context in browser.contexts:
                await context.close()
            for _ in range(many):  # each in a window of its own, so that none is behind another
                page = await browser.new_page()
                await page.goto(f"{address}/orchestration/")
                while not await page.evaluate(IS_SHOWN):  # a tab that shows nothing costs nothing
                    await page.wait_for_timeout(50)

        yield tabs
        await browser.close()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_obey(sys.argv[1], sys.argv[2], int(sys.argv[3])))
