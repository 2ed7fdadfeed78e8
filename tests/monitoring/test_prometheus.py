"""The queries of the Grafana dashboard and of the alert rules, parsed by Prometheus's own tool and answered by a real
Prometheus that scrapes a real service.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from bandmaster.demo import free_port
from bandmaster.serving.telemetry import LEARNER, WORKER
from tests.browser.test_dashboard import Traffic
from tests.end_to_end.servers import environment, eventually, served, stop
from tests.serving.tiny import project

pytestmark = pytest.mark.extras

CONFIGS = Path(__file__).parents[2] / "configs" / "monitoring"
RULES = CONFIGS / "alerts.yaml"
SCRAPE = """
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: ["%s"]
scrape_configs:
  - job_name: bandmaster
    static_configs: [{targets: ["%s"]}]
"""
SELDOM = {"Members that fail", "Alarms in 10 minutes"}
"""What may have nothing to show while all is well."""


def panels() -> list[tuple[str, str]]:
    """Every panel's queries, with the window that Grafana would put in."""
    board = json.loads((CONFIGS / "grafana.json").read_text())
    return [
        (panel["title"], target["expr"].replace("$__rate_interval", "10s"))
        for panel in board["panels"]
        for target in panel["targets"]
    ]


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return list(group["rules"])


def test_the_rules_are_rules_by_prometheus_own_tool() -> None:
    checked = subprocess.run(["promtool", "check", "rules", str(RULES)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_no_query_is_of_a_metric_that_is_none() -> None:
    known = {f"bandmaster_{name}" for name in (*WORKER, *LEARNER)}
    for query in (*(query for _, query in panels()), *(rule["expr"] for rule in rules())):
        named = set(re.findall(r"bandmaster_\w+", query))
        assert named
        assert {re.sub(r"_(total|sum|count|bucket)$", "", name) for name in named} <= known


def test_every_alert_is_explained() -> None:
    text = (CONFIGS.parents[1] / "docs" / "monitoring.md").read_text()
    assert set(re.findall(r"^\| `(Bandmaster\w+)`", text, re.M)) == {rule["alert"] for rule in rules()}


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """It has scraped a service under traffic for a while."""
    path = shutil.which("prometheus")
    assert path is not None, "install Debian's prometheus: `make debian` does"
    folder = tmp_path_factory.mktemp("monitored")
    project(folder, seed=1, guard={"mode": "live", "baseline": "all"}, probes={"share": 0.3, "adapt": False})
    address = f"127.0.0.1:{free_port()}"
    with served(".", folder=folder, env=environment(folder / "home")) as server:
        traffic = Traffic(server.url)
        traffic.start()
        config = folder / "prometheus.yaml"
        config.write_text(SCRAPE % (RULES, server.url.removeprefix("http://")))
        flags = [f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address={address}"]
        with (folder / "prometheus.log").open("w") as log:
            process = subprocess.Popen([path, *flags], stdout=log, stderr=log, start_new_session=True)
        try:
            with httpx.Client(base_url=f"http://{address}", timeout=20) as client:
                eventually(lambda: _scraped(client) > 12, "it has scraped a dozen times")
                yield client
        finally:
            stop(process)
            traffic.over = True
            traffic.join()


def _scraped(client: httpx.Client) -> float:
    try:
        found = asked(client, "count_over_time(bandmaster_snapshot[1h])")
    except httpx.TransportError:
        return 0.0
    return max((float(each["value"][1]) for each in found), default=0.0)


def asked(client: httpx.Client, query: str) -> list[Any]:
    answer = client.get("/api/v1/query", params={"query": query}).json()
    assert answer["status"] == "success", answer
    return list(answer["data"]["result"])


@pytest.mark.parametrize(("title", "query"), panels(), ids=[f"{k}" for k in range(len(panels()))])
def test_every_panel_has_something_to_show(prometheus: httpx.Client, title: str, query: str) -> None:
    found = asked(prometheus, query)
    assert found or title in SELDOM, title


def test_every_rule_is_evaluated_and_none_fires_while_all_is_well(prometheus: httpx.Client) -> None:
    def evaluated() -> list[Any] | None:
        (group,) = prometheus.get("/api/v1/rules").json()["data"]["groups"]
        every: list[Any] = group["rules"]
        return every if all(rule["health"] != "unknown" for rule in every) else None

    found = eventually(evaluated, "every rule is evaluated")
    assert {rule["name"]: rule["health"] for rule in found} == {rule["alert"]: "ok" for rule in rules()}
    grave = {rule["name"] for rule in found if rule["state"] == "firing" and rule["labels"]["severity"] != "info"}
    assert grave == set()
