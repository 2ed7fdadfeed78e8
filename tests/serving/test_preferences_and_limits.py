"""What a request may ask for by its headers: a profile's weights, a deadline; and what limits do to a service."""

from typing import Any

import pytest

from bandmaster.contract import Contract, Metric
from bandmaster.serving.front import DEADLINE_HEADER, PROFILE_HEADER, Asked, Refusal, asked_by
from tests.serving.test_plain_services import start  # noqa: F401 - a fixture
from tests.serving.tiny import IRIS, ROWS, block

QUICK = Metric("latency", 1.0, goal="min", low=0.001, high=1.0)
CONTRACT = Contract.of(Metric("accuracy", 3.0), QUICK, profiles={"fast": {"latency": 1.0}})
BODY = {"input_series": [ROWS[0].tolist()]}
TIMES = {"linear": "5 ms", "tree": "2 ms", "bayes": "8 ms", "fragile": "9 ms"}
MEMBERS = {n: m | {"profile": {"latency": TIMES[n], "cost": 0.01}} for n, m in block()["members"].items()}


def test_headers_are_read_and_none_asks_for_nothing() -> None:
    assert asked_by({}, CONTRACT) == Asked("default", None)
    assert asked_by({PROFILE_HEADER: "default"}, CONTRACT) == Asked("default", None)
    assert asked_by({PROFILE_HEADER: "fast", DEADLINE_HEADER: "12.5"}, CONTRACT) == Asked("fast", 0.0125)


@pytest.mark.parametrize(
    ("header", "value", "told"),
    [
        (PROFILE_HEADER, "fats", "there is no profile 'fats'; use one of default, fast"),
        (PROFILE_HEADER, "", "there is no profile ''"),
        (DEADLINE_HEADER, "0", "'0' is no number of milliseconds above 0; send 50"),
        *((DEADLINE_HEADER, text, "is no number of milliseconds") for text in ("nan", "-1", "1e3", "50 ms", "", "1_0")),
    ],
)
def test_a_header_that_cannot_be_honoured_is_refused_and_says_what_can(header: str, value: str, told: str) -> None:
    with pytest.raises(Refusal) as refused:
        asked_by({header: value}, CONTRACT)
    assert refused.value.status == 400
    assert str(refused.value).startswith(f"{header}: ")
    assert told in str(refused.value)


def test_a_request_is_decided_under_its_profile_and_rewarded_by_its_weights(start: Any) -> None:  # noqa: F811
    service = start(IRIS, members=MEMBERS, profiles={"sure": {"accuracy": 1}}, policy={"use": "scoring"})
    refused = service.post("/classify", json=BODY, headers={PROFILE_HEADER: "fats"})
    assert (refused.status_code, "default, sure" in refused.json()["error"]) == (400, True)
    rewards = {}
    for profile in ("default", "sure"):
        reply = service.post("/classify", json=BODY, headers={PROFILE_HEADER: profile})
        assert reply.status_code == 200, reply.text
        told = {"decision_id": reply.headers["x-orchestration-decision"], "label": "setosa"}
        rewards[profile] = service.post("/feedback", json=told).json()["reward"]
    assert rewards["default"] < rewards["sure"] == 1.0  # whose weights know no latency
    page = service.get("/orchestration/state").json()
    assert page["contract"]["latency"]["profiles"] == {"sure": 0.0}


def test_a_deadline_by_header_keeps_slower_members_from_being_chosen(start: Any) -> None:  # noqa: F811
    policy = {"use": "random"}
    service = start(IRIS, members=MEMBERS, policy=policy, probes={"share": 0}, limits={"deadline": "1 s"})
    for _ in range(8):
        service.post("/classify", json=BODY, headers={DEADLINE_HEADER: "3"}).raise_for_status()
    assert service.get("/orchestration/state").json()["worker"]["over_limits"] == 0
    service.post("/classify", json=BODY, headers={DEADLINE_HEADER: "1"}).raise_for_status()  # nobody is so fast
    assert service.get("/orchestration/state").json()["worker"]["over_limits"] == 1


def test_a_budget_that_is_spent_leaves_the_cheapest_and_is_told_on_the_state_page(start: Any) -> None:  # noqa: F811
    limits = {"cost": "0.04 / 1 h"}
    service = start(IRIS, members=MEMBERS, policy={"use": "scoring"}, probes={"share": 1}, limits=limits)
    for _ in range(6):
        service.post("/classify", json=BODY).raise_for_status()
    worker = service.get("/orchestration/state").json()["worker"]
    assert worker["left"]["cost"] == pytest.approx(0.04 - 0.04 - 0.01 * worker["over_limits"])
    assert worker["over_limits"] == 5  # the first was probed: all four members
