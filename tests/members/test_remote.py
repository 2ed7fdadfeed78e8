"""Members on a model server: a real one on a real socket, which does all that servers do."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandmaster.core import BandmasterError, Interruptible, MemberFailure
from bandmaster.members.remote import Endpoint, RemoteMember
from bandmaster.meter import CpuTimeMeter
from tests.members import servers
from tests.members.asking import (
    WITHIN_S,
    check_fault,
    check_giving_up,
    failure,
    key_and_certificate,
    member_of,
)
from tests.members.servers import CLASSES, ROWS, Served, answering, metadata, saying, serving, softmax, tensor


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as up:
        yield up


# ---- What a server does right ---------------------------------------------------------------------------------------


def test_what_the_model_is_is_found_out_and_what_it_says_is_what_it_said(served: Served) -> None:
    member = member_of(served)
    assert (member.input_shape, member.width, member.unmet) == ((4,), CLASSES, None)
    assert member.latency_s > 0.0
    np.testing.assert_array_equal(member.predict(ROWS), softmax(ROWS))
    assert isinstance(member, Interruptible)


def test_a_version_and_a_path_before_it_are_part_of_the_address(served: Served) -> None:
    member_of(served, version="3").predict(ROWS)
    assert {path for path, _ in served.seen} == {"/v2/models/m/versions/3", "/v2/models/m/versions/3/infer"}


def test_answers_may_be_nested_and_of_a_regression_flat(served: Served) -> None:
    member, regression = member_of(served), None
    served.fault = saying({"outputs": [tensor(softmax(ROWS), data=softmax(ROWS).tolist())]})
    np.testing.assert_array_equal(member.predict(ROWS), softmax(ROWS))
    served.fault = None
    served.models["m"] = lambda rows: rows.sum(axis=1)
    regression = member_of(served, "regression")
    assert regression.width == 1
    np.testing.assert_allclose(regression.predict(ROWS), ROWS.sum(axis=1, keepdims=True), rtol=1e-6)


def test_calls_share_connections_also_those_of_several_threads(served: Served) -> None:
    member = member_of(served)
    before = served.connections
    for _ in range(50):
        member.predict(ROWS)
    assert served.connections == before + 1
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: member.predict(ROWS), range(200)))
    assert served.connections <= before + 4
    member.stop()
    member.predict(ROWS)
    assert served.connections <= before + 5


def test_a_connection_that_the_server_has_closed_meanwhile_costs_no_answer(served: Served) -> None:
    member, died = member_of(served), []

    def once(handler: servers.Handler) -> None:
        served.fault = None
        died.append(handler.path)
        servers.die_before_an_answer(handler)

    for _ in range(5):
        served.fault = once
        np.testing.assert_array_equal(member.predict(ROWS), softmax(ROWS))
    assert len(died) == 5


def test_a_token_comes_from_the_environment_and_goes_to_that_server_alone(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bad in (None, " ", "two\nlines", "clé"):
        if bad is not None:
            monkeypatch.setenv("FAR_TOKEN", bad)
        with pytest.raises(BandmasterError, match="variable FAR_TOKEN, which is to hold the token, is not set"):
            member_of(served, token="FAR_TOKEN")
    monkeypatch.setenv("FAR_TOKEN", "s3cret\n")
    member = member_of(served, token="FAR_TOKEN")
    assert all(headers["authorization"] == "Bearer s3cret" for _, headers in served.seen)
    with serving() as other:
        served.fault = saying(b"", 307, location=f"{other.url}/v2/models/m/infer")
        assert "answered 307" in failure(member)
        assert not other.seen


def test_neither_a_proxy_nor_a_password_is_taken_from_the_environment(
    served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    member_of(served).predict(ROWS)
    assert not any("authorization" in {key.lower() for key in headers} for _, headers in served.seen)


def test_over_https_only_a_certificate_that_is_known_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = key_and_certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with serving(tls=tls) as served:
        assert "certificate" in str(member_of(served).unmet)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        np.testing.assert_array_equal(member_of(served).predict(ROWS), softmax(ROWS))


def test_its_energy_is_what_is_declared_of_each_row(served: Served) -> None:
    meter = CpuTimeMeter(CLASSES)
    told = meter.run(member_of(served, energy_j=0.25), ROWS, np.arange(5))
    assert (told.energy_j, told.energy_from) == (1.25, "declared")
    assert meter.run(member_of(served), ROWS, np.arange(5)).energy_from == "estimated"


# ---- What it does wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [servers.hang, servers.drip, servers.drip_headers])
def test_whatever_the_server_does_the_caller_waits_no_longer_than_he_has_time(
    served: Served, fault: servers.Fault
) -> None:
    member = member_of(served)
    served.fault = fault
    assert failure(member, WITHIN_S) == "did not answer within 0.3 s"
    served.fault = None
    np.testing.assert_array_equal(member.predict(ROWS), softmax(ROWS))


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (servers.die_before_an_answer, "ServerDisconnectedError"),
        (servers.die_in_the_middle, "ClientPayloadError"),
        (servers.flood, "answered with more than 4194496 bytes"),
        (servers.bomb, "the server's answer is not an answer"),
        (saying({"error": "out of memory"}, 500), "the server answered 500: out of memory"),
        (saying(b"<html>\x1b[2J" + b"x" * 9999, 502), "the server answered 502: <html> [2Jxxx"),
        (saying({"error": "no such model"}, 404), "the server answered 404: no such model"),
        (saying(b"", 204), "the server answered 204: nothing"),
        (saying(b"no json"), "the server's answer is not an answer: JSON is malformed"),
        (saying(b"[" * 900_000), "the server's answer is not an answer"),
        (saying({"outputs": []}), "answered with the tensors []"),
        (saying({"outputs": [tensor(softmax(ROWS)) | {"name": "logits"}]}), "answered with the tensors [logits]"),
        (answering([[np.nan, 1.0, 0.0]]), "the server's answer is not an answer: JSON is malformed"),
        (answering([[0.5, 0.5, 0.0]], data=[None, 1.0, 0.0]), "answered with what are no rows of numbers"),
        (answering([[0.5, 0.5, 0.0]], data=["0.5", "0.5", "0"]), "answered with what are no rows of numbers"),
        (answering([[0.5, 0.5, 0.0]], data=[1e400, 0.0, 0.0]), "the server's answer is not an answer"),
        (answering([[0.5, 0.5, 0.0]], data=[[1.0], [0.0, 0.0]]), "answered with what is no tensor"),
        (answering([[0.5, 0.5]]), "answered with shape (1, 2) to 1 rows of 3 classes"),
        (answering([[0.5, 0.5, 0.0]] * 2), "answered with shape (2, 3) to 1 rows of 3 classes"),
        (answering([[0.5, 0.5, 0.5]]), "answered with figures that are no distribution over classes"),
        (answering([[1.5, -0.5, 0.0]]), "answered with figures that are no distribution over classes"),
        (answering([[0.5, 0.5, 0.0]], shape=[1, 4]), "answered with 3 figures in the shape [1, 4]"),
        (
            answering([[0.5, 0.5, 0.0]], shape=[-1, -3]),
            "answered with what are no rows of numbers, in the shape [-1, -3]",
        ),
        (answering([[[0.5, 0.5, 0.0]]]), "answered with what are no rows of numbers, in the shape [1, 1, 3]"),
        (answering(1.0, data=[1.0]), "answered with what are no rows of numbers, in the shape []"),
        (answering([[1, 0, 0]], datatype="INT64"), "answered with INT64, not probabilities"),
    ],
)
def test_every_fault_is_a_failure_that_says_what_came_and_the_next_call_is_answered(
    served: Served, fault: servers.Fault, error: str
) -> None:
    check_fault(served, fault, error)


def test_a_server_that_goes_fails_and_one_that_comes_back_answers_again() -> None:
    with serving() as served:
        member = member_of(served)
    port = int(served.url.rpartition(":")[2])
    assert "ClientConnectorError: Cannot connect" in failure(member)
    with serving(port=port):
        np.testing.assert_array_equal(member.predict(ROWS), softmax(ROWS))


def test_a_call_that_is_given_up_takes_no_other_along(served: Served) -> None:
    check_giving_up(served)


# ---- What cannot be used is refused at the door ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "named", "why"),
    [
        ({}, {}, "does not tell what the model takes; name its tensor, as in input: input-0"),
        (metadata(outputs=("labels", "probabilities")), {}, "has the outputs labels, probabilities; name one of them"),
        (metadata(), {"output": "logits"}, "has the outputs probabilities; name one of them under output:"),
        (metadata(shape=(1, 4)), {}, r"must take any number of rows, \(-1, …\), not \(1, 4\)"),
        (metadata(shape=(-1, 10**12)), {}, r"takes rows of shape \(1000000000000,\), which are too large to be sent"),
        (metadata(shape=(-1, *[1] * 70)), {}, "which are too large to be sent as JSON"),
        (metadata(shape=(4,)), {}, r"must take any number of rows"),
        (
            {"inputs": [{"name": "x", "datatype": "INT64", "shape": [-1, 4]}]},
            {},
            "takes INT64, not FP32 or FP64; export it with a float input",
        ),
        ({"inputs": 7}, {}, "the server's answer is not what the model is"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_with_what_to_do(
    served: Served, told: dict[str, Any], named: dict[str, str], why: str
) -> None:
    served.metadata = told
    with pytest.raises(BandmasterError, match=f"^{served.url}/v2/models/m: member 'far': .*{why}"):
        member_of(served, **named)


def test_a_model_that_the_server_does_not_have_is_refused_in_its_own_words(served: Served) -> None:
    with pytest.raises(BandmasterError, match="the server answered 404: Model other not found"):
        member_of(served, model="other")


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "http://[::1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(BandmasterError, match="its address cannot be used"):
        RemoteMember("far", Endpoint(url, "m"))


def test_logits_are_no_probabilities(served: Served) -> None:
    served.models["m"] = lambda rows: rows[:, :3] - 7.0
    with pytest.raises(BandmasterError, match="no distribution over classes; name the tensor of probabilities"):
        member_of(served)


def test_tensors_are_named_where_the_server_has_several_or_tells_of_none(served: Served) -> None:
    served.metadata = metadata(outputs=("labels", "probabilities"))
    np.testing.assert_array_equal(member_of(served, output="probabilities").predict(ROWS), softmax(ROWS))
    served.metadata = {}  # as MLServer's, where nobody has written what a model takes
    member = member_of(served, input="x")
    assert (member.input_shape, member.width) == (None, None)
    member.suppose((4,), CLASSES)
    assert (member.input_shape, member.width) == ((4,), CLASSES)
    np.testing.assert_array_equal(member.predict(ROWS), softmax(ROWS))


# ---- A server that is down when the service starts ------------------------------------------------------------------


def test_a_server_that_is_down_at_start_is_met_when_it_is_back_and_must_be_what_was_supposed() -> None:
    with serving() as served:
        served.fault = saying({"error": "loading"}, 503)
        member = member_of(served)
        assert member.unmet == "the server answered 503: loading"
        member.suppose((4,), CLASSES)
        assert "the server answered 503: loading" in failure(member)
        served.fault, served.metadata = None, metadata(shape=(-1, 5))
        assert "takes rows of shape (5,), but its ensemble's have (4,)" in failure(member)
        served.metadata = metadata()
        np.testing.assert_array_equal(member.predict(ROWS), softmax(ROWS))
        assert member.unmet is None


def test_a_server_that_hangs_when_it_is_met_costs_no_more_than_a_call(served: Served) -> None:
    served.fault = saying({"error": "loading"}, 503)
    member = member_of(served)
    member.suppose((4,), CLASSES)
    served.fault = servers.hang
    with pytest.raises(MemberFailure, match=r"did not answer within 0\.3 s"):
        member.predict_within(ROWS, WITHIN_S)
