"""How fast the dashboard shows a large journal in a real browser, and what memory its server takes for that."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bandmaster.core import Answer, Decision, Joined
from bandmaster.journal.keys import Keys
from bandmaster.journal.spool import Spool, spool_folder
from bandmaster.journal.sqlite import SqliteJournal
from bandmaster.learner import Learner
from bandmaster.policies.traditional import RandomPolicy
from bandmaster.testing import sample_experiences, sample_learner, sample_log
from bandmaster.visualizer.keeper import Keeper, about
from benchmarks.browser import IS_SHOWN, browsing, chromium
from benchmarks.log_speed import peak_mb
from benchmarks.scenario import PageSpeed
from benchmarks.sources import Place

SAMPLES = 2000
"""So many different requests, over and over."""

AT_ONCE = 500
"""Decisions between two looks of the learner."""

ENDS = 1_790_000_000.0
"""When a made journal ends (Unix s): long ago, so that the page opens with all of it."""

LABEL_DELAY_S = 5.0
PATIENCE_S = 60.0
ROUNDS = 5
MB = 1e6

DRAWN = """async (choose) => {
  const chart = [...document.querySelectorAll('#panels .chart')].at(-1);
  const began = performance.now();
  const drawn = new Promise((go) => new MutationObserver((_, observer) => {
    observer.disconnect();
    requestAnimationFrame(() => setTimeout(() => go(performance.now() - began)));
  }).observe(chart, { attributes: true, attributeFilter: ['aria-label'] }));
  const [name, value] = choose;
  const select = document.querySelector(`[name=${name}]`);
  select.value = value;
  select.dispatchEvent(new Event('change', { bubbles: true }));
  return Promise.race([drawn, new Promise((_, fail) => setTimeout(() => fail(new Error('nothing was drawn')), 60000))]);
}"""
"""Chooses something, and gives the ms until all charts have been drawn anew."""


def measure(scenario: PageSpeed, place: Place, told: Callable[[str], None]) -> dict[str, float | None]:
    """The figures of ``scenario``: ``first_s``, from asking for the page until all of it is drawn, and ``window_s``,
    from choosing another window or filter until that is drawn, each the worst of ``ROUNDS`` in new tabs; and
    ``memory_mb``, by how
    much the server's memory was above that of its start, at most. Raises ``UnavailableError`` without a browser.
    """
    chromium()
    journal = _journal(scenario, place, told)
    told(f"{scenario.id}: looking at {journal}")
    with _served(journal) as (address, server), browsing() as browser:
        idle = server.memory_info().rss / MB
        firsts, windows = [], []
        for _ in range(ROUNDS):
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            page = context.new_page()
            firsts.append(opened(page, address))
            page.uncheck("[name=live]")
            for choice in _choices(page):
                windows.append(page.evaluate(DRAWN, choice) / 1e3)
            context.close()
        most = peak_mb(server.pid)
    return {
        "decisions": float(scenario.decisions),
        "journal_mb": journal.stat().st_size / MB,
        "first_s": max(firsts),
        "first_median_s": float(np.median(firsts)),
        "window_s": max(windows),
        "window_median_s": float(np.median(windows)),
        "memory_mb": most - idle,
    }


def opened(page: Any, address: str) -> float:
    """Open the dashboard in a tab; how long that took until all of it was drawn, in s."""
    began = time.perf_counter()
    page.goto(address)
    while not page.evaluate(IS_SHOWN):
        assert time.perf_counter() - began < PATIENCE_S, f"{address} shows nothing"
        page.wait_for_timeout(5)
    page.evaluate("new Promise(requestAnimationFrame)")
    return time.perf_counter() - began


def _choices(page: Any) -> list[tuple[str, str]]:
    """Every window, then every policy and profile, and back to all."""
    found = []
    for name in ("span", "policy", "profile"):
        values: Sequence[str] = page.eval_on_selector_all(f"[name={name}] option", "all => all.map((o) => o.value)")
        found += [(name, value) for value in (*values, values[0])]
    return found


@contextmanager
def _served(journal: Path) -> Iterator[tuple[str, psutil.Process]]:
    command = [sys.executable, "-m", "bandmaster", "dashboard", str(journal), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().split()[0], psutil.Process(server.pid)
        finally:
            server.terminate()


# ---- The journal -------------------------------------------------------------------------------------------------


def _journal(scenario: PageSpeed, place: Place, told: Callable[[str], None]) -> Path:
    """A journal of so many decisions up to ``ENDS``, with its chronicle; made once, by what makes them in a service."""
    kept = place.cache / "journals" / f"{scenario.decisions}-{scenario.days:g}"
    if not kept.is_dir():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            made = Path(folder) / "made"
            made.mkdir()
            _make(made / "orchestration.db", scenario, told)
            made.rename(kept)
    return kept / "orchestration.db"


def _make(path: Path, scenario: PageSpeed, told: Callable[[str], None]) -> None:
    learner, samples = _samples()
    keeper = Keeper(path)
    keeper.chronicle.describe(about(learner))

    def decided(answered: Sequence[tuple[Decision, Answer]]) -> None:
        for decision, answer in answered:
            keeper.decided(learner, decision, answer)

    journal = SqliteJournal(path, Keys(b"k" * 32), complete=decided)
    spool = Spool(spool_folder(path), "1")
    step, start = scenario.days * 86400.0 / scenario.decisions, ENDS - scenario.days * 86400.0
    for first in range(0, scenario.decisions, AT_ONCE):
        made = [_at(samples[k % SAMPLES], k, start + k * step) for k in range(first, first + AT_ONCE)]
        for joined in made:
            spool.record(joined.decision, joined.answer)
        journal.drain()
        for settled in journal.settle_all([(j.decision.id, j.outcome, None) for j in made]):
            assert settled.joined is not None
            keeper.learned(learner, settled.joined, learner.experience(settled.joined))
        keeper.tick(learner, journal, made[-1].outcome.at)
        if not first % (scenario.decisions // 10):
            told(f"{scenario.id}: {first:,} of {scenario.decisions:,} decisions recorded")
    spool.close()
    journal.drain()
    keeper.close()
    journal.close()


def _samples() -> tuple[Learner, list[Joined]]:
    log = sample_log(SAMPLES, seed=3)
    learner = sample_learner(lambda plans, *_: RandomPolicy(plans), log, probe_share=0.05)
    learner.manager.compares = True
    return learner, [experience.joined for experience in sample_experiences(learner, log)]


def _at(joined: Joined, k: int, at: float) -> Joined:
    """The same request again, at another time."""
    decision = replace(joined.decision, id=f"d{k:08}", at=at)
    return replace(joined, decision=decision, outcome=replace(joined.outcome, at=at + LABEL_DELAY_S))
