"""Makes the pictures of the README and of these pages from real runs: ``make pictures``, some six minutes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from bandmaster import demo
from bandmaster.cli.shown import counting

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
    path = shutil.which("chromium")
    assert path is not None, "install Debian's chromium: `make debian` does"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 1250})
        page.goto(f"{address}/orchestration/")
        shown(page)
        page.uncheck("[name=live]")
        page.select_option("[name=span]", "0")
        shown(page)
        page.screenshot(path=DOCS / "dashboard.png")
        page.click("#decisions tbody tr:first-child button")
        page.wait_for_selector("#decision[open]", timeout=SHOWN_MS)
        page.locator("#decision").screenshot(path=DOCS / "decision.png")
        browser.close()


def shown(page: Page) -> None:
    """Wait until all that was asked for is there."""
    page.wait_for_load_state("load")
    page.wait_for_timeout(3000)


if __name__ == "__main__":
    main()
