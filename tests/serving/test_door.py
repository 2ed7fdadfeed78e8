"""Who may do what, decided from the request and from what this process listens on."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from bandmaster.serving import door
from bandmaster.serving.door import LOCAL, Bucket, Door, Refusal, Scope, identify, is_loopback, only_loopback


def request(peer: str | None = "127.0.0.1", **headers: str) -> Request:
    sent = {"host": "127.0.0.1:3000"} | headers
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in sent.items()]
    return Request({"type": "http", "headers": raw, "client": peer and (peer, 50000)})


VARIABLE = Scope.FEEDBACK.variable


def feedback_refusal(asked: Request) -> str | None:
    holder, why = identify(asked, Scope.FEEDBACK)
    return None if holder is not None else why


@pytest.fixture
def near(monkeypatch: pytest.MonkeyPatch) -> None:
    """No token, and a server on loopback alone."""
    for scope in Scope:
        monkeypatch.delenv(scope.variable, raising=False)
    monkeypatch.setattr(door, "only_loopback", lambda: True)


@pytest.mark.usefixtures("near")
@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1"])
def test_a_peer_on_loopback_needs_no_token(host: str) -> None:
    assert feedback_refusal(request(host)) is None


@pytest.mark.usefixtures("near")
@pytest.mark.parametrize("host", ["10.0.0.7", "192.168.1.1", "::", "0.0.0.0", "localhost.evil.example", None])
def test_any_other_peer_needs_one(host: str | None) -> None:
    assert VARIABLE in str(feedback_refusal(request(host)))


@pytest.mark.usefixtures("near")
@pytest.mark.parametrize(
    "header",
    [
        *("forwarded", "x_forwarded_for", "x_forwarded_proto", "x_forwarded_host", "x_real_ip", "via"),
        *("cf_connecting_ip", "true_client_ip", "x_client_ip", "x_original_forwarded_for"),
    ],
)
def test_a_peer_for_whom_a_proxy_speaks_needs_one(header: str) -> None:
    assert VARIABLE in str(feedback_refusal(request(**{header: "127.0.0.1"})))


@pytest.mark.usefixtures("near")
@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"host": "[oops"}, {"origin": "http://evil.example"}])
def test_a_web_page_that_was_lured_here_needs_one(headers: dict[str, str]) -> None:
    assert VARIABLE in str(feedback_refusal(request(**headers)))


@pytest.mark.usefixtures("near")
@pytest.mark.parametrize("host", ["localhost:3000", "127.0.0.1", "[::1]:3000"])
def test_the_names_of_this_machine_are_known(host: str) -> None:
    assert feedback_refusal(request(**{"host": host})) is None


def test_a_token_may_hold_any_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "sésame-sésame-16")
    assert feedback_refusal(request(authorization="Bearer sésame-sésame-16")) is None
    assert feedback_refusal(request(authorization="Bearer sesame-sesame-16")) is not None


@pytest.mark.usefixtures("near")
def test_a_server_that_others_can_reach_wants_a_token_even_from_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "only_loopback", lambda: False)
    assert VARIABLE in str(feedback_refusal(request()))


@pytest.mark.parametrize(
    ("authorization", "passes"),
    [
        ("Bearer sesame-sesame-16", True),
        ("Bearer simsim-simsim-16", False),
        ("bearer sesame-sesame-16", False),
        ("sesame-sesame-16", False),
        ("", False),
    ],
)
def test_where_a_token_is_set_it_alone_decides(
    monkeypatch: pytest.MonkeyPatch, authorization: str, passes: bool
) -> None:
    monkeypatch.setenv(VARIABLE, "sesame-sesame-16")
    for host in ("127.0.0.1", "10.0.0.7"):
        assert (feedback_refusal(request(host, authorization=authorization)) is None) == passes


def test_loopback_is_told_by_address_not_by_name() -> None:
    assert is_loopback("127.0.0.1")
    assert not is_loopback("localhost")


def test_a_process_that_listens_on_loopback_alone_knows_it() -> None:
    only_loopback.cache_clear()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert only_loopback()
    only_loopback.cache_clear()
    assert not only_loopback()  # nobody listens: nothing is known
    only_loopback.cache_clear()


def test_each_scope_has_a_token_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(Scope.FEEDBACK.variable, "sesame-sesame-16")
    monkeypatch.setenv(Scope.DASHBOARD.variable, "poppy-poppy-poppy")
    for scope, token in ((Scope.FEEDBACK, "sesame-sesame-16"), (Scope.DASHBOARD, "poppy-poppy-poppy")):
        assert identify(request(authorization=f"Bearer {token}"), scope)[0] == scope
        other = "sesame-sesame-16" if token == "poppy-poppy-poppy" else "poppy-poppy-poppy"
        assert scope.variable in identify(request(authorization=f"Bearer {other}"), scope)[1]


def test_a_token_may_lie_in_a_file_which_is_read_anew_each_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    file = tmp_path / "token"
    monkeypatch.setenv(f"{VARIABLE}_FILE", str(file))
    assert "its log says why" in str(feedback_refusal(request()))
    for token in ("sesame-sesame-16", "poppy-poppy-poppy"):
        file.write_text(f"{token}\n")
        assert feedback_refusal(request(authorization=f"Bearer {token}")) is None
    assert feedback_refusal(request(authorization="Bearer sesame-sesame-16")) is not None
    file.write_text("\n")
    assert "its log says why" in str(feedback_refusal(request(authorization="Bearer ")))


def test_tokens_have_names_and_several_may_be_valid_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        VARIABLE, "scanner:sesame-sesame-16  scanner:simsim-simsim-16 poppy-poppy-poppy annotators:a:b-a:b-a:b-a:b-a"
    )
    holders = {
        "sesame-sesame-16": "scanner",
        "simsim-simsim-16": "scanner",
        "poppy-poppy-poppy": "feedback",
        "a:b-a:b-a:b-a:b-a": "annotators",
    }
    for token, holder in holders.items():
        assert identify(request(authorization=f"Bearer {token}"), Scope.FEEDBACK) == (holder, "")
    for wrong in ("scanner:sesame-sesame-16", "scanner", "sesame-sesame-16 simsim-simsim-16", ""):
        assert identify(request(authorization=f"Bearer {wrong}"), Scope.FEEDBACK)[0] is None


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_one_holder_s_outcomes_are_limited_and_no_other_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "a:sesame-sesame-16 b:poppy-poppy-poppy")
    door, clock = Door(outcomes=10.0, clock=(clock := Clock())), clock
    first, second = (request(authorization=f"Bearer {token}") for token in ("sesame-sesame-16", "poppy-poppy-poppy"))
    assert door.enter(first, Scope.FEEDBACK, 50) == "a"  # five seconds' worth at once
    with pytest.raises(Refusal, match=r"come again in 0\.1 s") as refused:
        door.enter(first, Scope.FEEDBACK)
    assert (refused.value.status, refused.value.response().headers["retry-after"]) == (429, "1")
    assert door.enter(second, Scope.FEEDBACK) == "b"
    clock.now += 0.1
    assert door.enter(first, Scope.FEEDBACK) == "a"


def test_guessing_tokens_is_limited_and_costs_their_holders_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "sesame-sesame-16")
    door, statuses = Door(outcomes=10.0, clock=Clock()), []
    for i in range(200):
        with pytest.raises(Refusal) as refused:
            door.enter(request(authorization=f"Bearer {i}"), Scope.FEEDBACK)
        statuses.append(int(refused.value.status))
    assert statuses == [401] * 50 + [429] * 150
    assert door.enter(request(authorization="Bearer sesame-sesame-16"), Scope.FEEDBACK) == "feedback"


@pytest.mark.usefixtures("near")
def test_who_asks_from_this_machine_is_called_so() -> None:
    assert Door(outcomes=1.0).enter(request(), Scope.ADMIN) == LOCAL


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 30)), max_size=60))
def test_a_bucket_never_lets_more_pass_than_its_rate_and_burst(steps: list[tuple[float, int]]) -> None:
    bucket, now, passed = Bucket(rate=5.0, burst=20.0), 0.0, 0.0
    for wait, count in steps:
        now += wait
        if bucket.take(now, count) == 0.0:
            passed += count
        assert passed <= 20.0 + 5.0 * now + 30.0  # one may be greater than the burst, and is waited for afterwards


def test_whoever_comes_again_when_told_to_passes() -> None:
    bucket = Bucket(rate=5.0, burst=20.0)
    assert bucket.take(0.0, 500.0) == 0.0
    wait_s = bucket.take(0.0, 7.0)
    assert bucket.take(wait_s - 0.01, 7.0) > 0.0
    assert bucket.take(wait_s + 1e-9, 7.0) == 0.0


@pytest.mark.parametrize(
    "set_",
    ["scanner: 3f9c3f9c3f9c3f9c3f9c", "correct horse battery staple", "p4:x", "short", "  \n", "scanner:"],
)
def test_what_may_be_a_part_of_a_token_opens_no_door(monkeypatch: pytest.MonkeyPatch, set_: str) -> None:
    monkeypatch.setenv(VARIABLE, set_)
    for tried in ("", set_, *set_.split(), *set_.split(":")):
        holder, why = identify(request(authorization=f"Bearer {tried.strip()}"), Scope.FEEDBACK)
        assert holder is None
        assert "its log says why" in why
