"""What monitoring reads is what happened, added up over the processes of a service, and each metric is documented."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from bentoml._internal.configuration.containers import BentoMLContainer
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from simple_di import sentinel

from bandmaster.serving.front import DECISION_HEADER
from bandmaster.serving.telemetry import LEARNER, WORKER
from tests.end_to_end.servers import Server, environment, eventually, served
from tests.serving.test_switches import serving
from tests.serving.tiny import CLASSES, LABELS, POISON, ROWS, project

DOCS = Path(__file__).parents[2] / "docs" / "monitoring.md"


def test_every_metric_is_documented_and_every_documented_one_exists() -> None:
    named = set(re.findall(r"^\| `bandmaster_(\w+)`", DOCS.read_text(), re.M))
    assert named == {*WORKER, *LEARNER}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = project(tmp_path_factory.mktemp("iris"), seed=1, probes={"share": 0.5, "adapt": False})
    source = (folder / "service.py").read_text()
    (folder / "service.py").write_text(source.replace("@bentoml.service\n", "@bentoml.service(workers=2)\n"))
    with served(".", folder=folder, env=environment(folder / "home")) as server:
        yield server


def figures(server: Server, name: str) -> dict[str, float]:
    """A metric's values by its labels, as text."""
    page = httpx.get(f"{server.url}/metrics").raise_for_status().text
    found = re.findall(rf"^bandmaster_{name}(?:{{(.*)}})? ([-+.\deinfa]+)$", page, re.M)
    return {labels: float(value) for labels, value in found}


def test_what_two_workers_and_the_learner_count_is_added_up(server: Server) -> None:
    requests = 120
    for k in range(requests):  # each on a connection of its own, so that both workers answer
        answer = httpx.post(f"{server.url}/classify", json={"input_series": [ROWS[k].tolist()]})
        decision = answer.headers["x-orchestration-decision"]
        httpx.post(f"{server.url}/feedback", json={"decision_id": decision, "label": CLASSES[LABELS[k]]})
    assert sum(figures(server, "decisions_total").values()) == requests

    def all_learned() -> bool:
        return sum(figures(server, "reward_count").values()) == requests

    eventually(all_learned, "the learner has learned from all")
    state = server.state()
    (rewarded,) = figures(server, "reward_sum").values()
    assert 0.0 < rewarded / requests < 1.0
    outcomes = figures(server, "outcomes_total")
    assert sum(outcomes.values()) == requests
    assert outcomes.keys() <= {'status="joined"', 'status="early"'}
    calls = figures(server, "member_seconds_count")
    assert calls.keys() == {f'member="{name}"' for name in ("linear", "tree", "bayes", "fragile")}
    assert requests < sum(calls.values()) < 4 * requests + 1
    assert figures(server, "probes_total")[""] > 20
    spent = figures(server, "energy_joules_total")
    assert {re.search('what="(.*?)"', labels)[1] for labels in spent} == {"reply", "probe"}  # type: ignore[index]
    assert min(spent.values()) > 0.0
    assert figures(server, "snapshot")[""] >= state["snapshot_version"]
    assert figures(server, "learner_lag_seconds")[""] >= 0.0


@contextmanager
def spans_kept() -> Iterator[InMemorySpanExporter]:
    """BentoML's tracer with somebody who keeps its spans."""
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    BentoMLContainer.tracing_excluded_urls._cache = sentinel  # what a service before was told, in this process
    BentoMLContainer.tracer_provider.set(provider)
    try:
        yield kept
    finally:
        BentoMLContainer.tracer_provider.reset()
        BentoMLContainer.tracing_excluded_urls._cache = sentinel


def test_bentoml_makes_no_spans_unless_something_is_said_of_tracing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with spans_kept() as kept, serving(tmp_path, monkeypatch) as client:
        assert client.post("/classify", json={"input_series": ROWS[:1].tolist()}).status_code == 200
    assert not kept.get_finished_spans()


def test_a_traced_request_has_a_span_of_its_decision_and_one_of_each_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_CONFIG_OPTIONS", "services.Iris.tracing.sample_rate=1.0")
    policy = {"use": "constant", "plan": "fragile>linear@0.99"}
    with spans_kept() as kept, serving(tmp_path, monkeypatch, policy=policy) as client:
        row = [[POISON + 1.0, 3.0, 4.0, 1.0]]
        ids = [client.post("/classify", json={"input_series": row}).headers[DECISION_HEADER] for _ in range(3)]
    spans = kept.get_finished_spans()
    decisions = [span for span in spans if span.name == "bandmaster.decision"]
    assert [span.attributes["bandmaster.decision"] for span in decisions] == ids
    for decision in decisions:
        assert decision.attributes["bandmaster.plan"] == "fragile>linear@0.99"
        assert decision.parent is not None  # the request's
        inside = [span for span in spans if span.parent and span.parent.span_id == decision.context.span_id]
        assert [span.attributes["bandmaster.member"] for span in inside] == ["fragile", "linear"]
        assert [span.status.is_ok for span in inside] == [False, True]
        assert decision.start_time <= inside[0].start_time <= inside[0].end_time <= inside[1].start_time
