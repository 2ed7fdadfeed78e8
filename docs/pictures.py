"""Makes the pictures of the README and of these pages from real runs: ``make pictures``, some six minutes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from bandmaster import demo
from bandmaster.cli.shown import counting
from benchmarks.browser import browsing
from benchmarks.page_speed import DRAWN, opened

DOCS = Path(__file__).parent
REQUESTS = 24_000
"""For minutes of traffic: what a dashboard shows is ten seconds apart."""

SHOWN_MS = 60_000


def main() -> None:
    out = DOCS.parent / "build" / "pictures"
    subprocess.run([sys.executable, "-m", "bandmaster", "demo", "--out", out], check=True)
    shutil.copyfile(out / "demo.png", DOCS / "demo.png")
    plan = demo.Demo(demo.find_root(), out, REQUESTS, seed=0, seeds=1)
    demo.record(plan, lambda: None)
    with demo.serving(plan) as address:
        with counting("live", REQUESTS) as told:
            demo.send_live(address, plan.traffic(0), lambda n, r: told(f"reward of the last 200 {r:.3f}"))
        take(address)


def take(address: str) -> None:
    """Pictures of the dashboard, and of one decision in it."""
    with browsing() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 1250})
        opened(page, f"{address}/orchestration/")
        page.uncheck("[name=live]")
        page.evaluate(DRAWN, ("span", "0"))
        page.screenshot(path=DOCS / "dashboard.png")
        page.click("#decisions tbody tr:first-child button")
        page.wait_for_selector("#decision[open]", timeout=SHOWN_MS)
        page.locator("#decision").screenshot(path=DOCS / "decision.png")


if __name__ == "__main__":
    main()
