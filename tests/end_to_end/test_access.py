"""The table of who may do what is what real servers do."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.end_to_end.servers import environment, served
from tests.serving.tiny import ROWS, project

DOCUMENT = Path(__file__).parents[2] / "docs" / "http.md"
HEADER = "x-orchestration-decision"
SECRETS = {"FEEDBACK": "open-sesame-please", "DASHBOARD": "poppy-poppy-poppy", "ADMIN": "simsim-simsim-simsim"}
TOKENS = {f"BANDMASTER_{scope}_TOKEN": secret for scope, secret in SECRETS.items()}
PIN, FORGET = "/orchestration/pin", "DELETE /orchestration/decisions/{id}"
SERIES, GUARD = "GET /orchestration/series", "PUT /orchestration/guard"
REVERT = "POST /orchestration/edits/revert"
RIGHT = {
    "POST /feedback": "open-sesame-please",
    "GET /orchestration/state": "poppy-poppy-poppy",
    f"PUT {PIN}": "simsim-simsim-simsim",
    f"DELETE {PIN}": "simsim-simsim-simsim",
    FORGET: "simsim-simsim-simsim",
    SERIES: "poppy-poppy-poppy",
    GUARD: "simsim-simsim-simsim",
    REVERT: "simsim-simsim-simsim",
}
BODIES: dict[str, dict[str, object]] = {
    f"PUT {PIN}": {"why": "a test"},
    GUARD: {"mode": "canary"},
    REVERT: {"version": 0},
}


def documented(bound: str, tokens: str) -> dict[str, tuple[str, ...]]:
    """What the table says of each route: the statuses without a token, with a wrong and with the right one."""
    section = DOCUMENT.read_text().split("## Who may do what")[1].split("\n## ")[0]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line]
    return {row[0].replace("`", ""): tuple(row[3:]) for row in rows if row[1] == bound and row[2] in (tokens, "–")}


def ask(client: httpx.Client, route: str, token: str | None) -> int:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    body = {"input_series": [ROWS[0].tolist()]}
    if route == "POST your method":
        return client.post("/classify", json=body, headers=headers).status_code
    method, path = route.split()[:2]
    if path.startswith("/orchestration/") and route != FORGET:
        return client.request(method, path, headers=headers, json=BODIES.get(route)).status_code
    decision = client.post("/classify", json=body).headers[HEADER]
    if route == FORGET:
        return client.delete(f"/orchestration/decisions/{decision}", headers=headers).status_code
    status = client.post("/feedback", json={"decision_id": decision, "label": "setosa"}, headers=headers).status_code
    return 200 if status == 202 else status  # its decision is on its way


@pytest.mark.parametrize(
    ("bound", "tokens"),
    [  # tests/serving/test_door.py has all of them without a server
        ("127.0.0.1", "set"),
        ("0.0.0.0", "not set"),
        pytest.param("127.0.0.1", "not set", marks=pytest.mark.extras),
        pytest.param("0.0.0.0", "set", marks=pytest.mark.extras),
    ],
)
def test_the_table_is_what_a_server_does(tmp_path: Path, bound: str, tokens: str) -> None:
    folder = project(tmp_path, guard={"mode": "live", "baseline": "linear"})
    env = environment(folder / "home", **(TOKENS if tokens == "set" else {}))
    table = documented(bound, tokens)
    assert len(table) == 10
    with served(".", "--host", bound, folder=folder, env=env) as server:
        for route, said in table.items():
            right = RIGHT.get(route, "open-sesame-please")
            wrong = next(token for token in RIGHT.values() if token != right)  # the other's, of all
            given = [str(ask(server.client, route, token)) for token in (None, wrong, right)]
            assert [s for s in said if s != "–"] == given[: len([s for s in said if s != "–"])], route
