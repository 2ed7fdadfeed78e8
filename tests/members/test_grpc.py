"""Members on a model server that is asked over gRPC: a real one on a real socket, which does all that servers do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from bandmaster.core import BandmasterError, MemberFailure
from bandmaster.members.open_inference import MOST_BYTES, Endpoint
from bandmaster.members.remote import RemoteMember
from bandmaster.testing import check_member
from tests.end_to_end.servers import eventually
from tests.members import grpc_servers as servers
from tests.members.asking import (
    WITHIN_S,
    check_fault,
    check_giving_up,
    failure,
    key_and_certificate,
    member_of,
)
from tests.members.grpc_servers import Response, Served, answering, failing, metadata, saying, serving
from tests.members.servers import CLASSES, ROWS, softmax
from tests.serving.tiny import project

Code = grpc.StatusCode


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as up:
        yield up


# ---- What a server does right ---------------------------------------------------------------------------------------


def test_a_model_that_is_asked_over_grpc_keeps_every_rule_of_a_member(served: Served) -> None:
    check_member(lambda: member_of(served), ROWS)


@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
def test_what_the_model_is_is_found_out_and_rows_go_in_its_datatype(served: Served, datatype: str) -> None:
    served.metadata = metadata(inputs=({"name": "x", "datatype": datatype, "shape": [-1, 4]},))
    member = member_of(served, version="3", output="probabilities")
    assert (member.input_shape, member.width, member.unmet) == ((4,), CLASSES, None)
    assert member.latency_s > 0.0
    np.testing.assert_array_equal(member.predict(ROWS), softmax(ROWS))
    told, *_, asked = (seen.question for seen in served.seen)
    assert (told.name, told.version) == ("m", "3")
    assert (asked.model_name, asked.model_version) == ("m", "3")
    assert [output.name for output in asked.outputs] == ["probabilities"]
    assert [(given.name, given.datatype, list(given.shape)) for given in asked.inputs] == [("x", datatype, [5, 4])]


@pytest.mark.parametrize(("datatype", "form"), [("FP16", np.float16), ("FP32", np.float32), ("FP64", np.float64)])
def test_answers_may_come_in_binary_or_as_figures(served: Served, datatype: str, form: type[np.floating[Any]]) -> None:
    member, scores = member_of(served), softmax(ROWS).astype(form)
    served.fault = answering(scores, datatype=datatype)
    np.testing.assert_array_equal(member.predict(ROWS), scores.astype(np.float64))
    if datatype != "FP16":
        contents = {f"{datatype.lower()}_contents": scores.ravel()}
        served.fault = answering(scores, datatype=datatype, raw=[], contents=contents)
        np.testing.assert_array_equal(member.predict(ROWS), scores.astype(np.float64))


def test_of_several_tensors_the_one_that_is_named_is_taken(served: Served) -> None:
    member = member_of(served, output="probabilities")
    labels = {"name": "labels", "datatype": "BYTES", "shape": [1]}
    scores = {"name": "probabilities", "datatype": "FP64", "shape": [1, 3]}
    raw = [b"\x03\0\0\0cat", softmax(ROWS[:1]).tobytes()]
    served.fault = saying(Response(outputs=[labels, scores], raw_output_contents=raw).SerializeToString())
    np.testing.assert_array_equal(member.predict(ROWS[:1]), softmax(ROWS[:1]))


def test_answers_of_a_regression_may_be_flat(served: Served) -> None:
    served.models["m"] = lambda rows: rows.sum(axis=1)
    member = member_of(served, "regression")
    assert member.width == 1
    np.testing.assert_allclose(member.predict(ROWS), ROWS.sum(axis=1, keepdims=True), rtol=1e-6)


def test_calls_share_a_connection_also_those_of_several_threads(served: Served) -> None:
    member = member_of(served)
    served.seen.clear()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: member.predict(ROWS), range(200)))
    assert len({seen.peer for seen in served.seen}) == 1
    member.stop()
    member.predict(ROWS)
    assert len({seen.peer for seen in served.seen}) == 2


def test_how_much_is_read_follows_from_the_question(served: Served) -> None:
    member = member_of(served)
    served.models["m"] = lambda rows: np.pad(softmax(rows), ((0, 0), (0, 2 * MOST_BYTES // 8)))
    said = failure(member)
    assert said.startswith("RESOURCE_EXHAUSTED: ")
    assert f"Received message larger than max (8388666 vs. {2 * MOST_BYTES})" in said
    served.models["m"] = softmax
    many = np.tile(ROWS, (80_000, 1))  # an answer of 9.6 MB
    np.testing.assert_array_equal(member.predict(many), softmax(many))


def test_a_token_comes_from_the_environment(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BandmasterError, match="variable FAR_TOKEN, which is to hold the token, is not set"):
        member_of(served, token="FAR_TOKEN")
    member_of(served)
    assert all("authorization" not in seen.metadata for seen in served.seen)
    served.seen.clear()
    monkeypatch.setenv("FAR_TOKEN", "s3cret\n")
    member_of(served, token="FAR_TOKEN")
    assert {seen.metadata["authorization"] for seen in served.seen} == {"Bearer s3cret"}


def test_no_proxy_is_taken_from_the_environment(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    np.testing.assert_array_equal(member_of(served).predict(ROWS), softmax(ROWS))


def test_over_grpcs_only_a_certificate_that_is_known_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = key_and_certificate(tmp_path)
    with serving(tls=(key.read_bytes(), certificate.read_bytes())) as served:
        assert "CERTIFICATE_VERI" in str(member_of(served).unmet)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        np.testing.assert_array_equal(member_of(served).predict(ROWS), softmax(ROWS))


# ---- What it does wrong ---------------------------------------------------------------------------------------------


def test_whatever_the_server_does_the_caller_waits_no_longer_than_he_has_time_and_the_server_is_told(
    served: Served,
) -> None:
    member = member_of(served)
    served.fault = servers.hang
    assert failure(member, WITHIN_S) == "did not answer within 0.3 s"
    remaining = served.seen[-1].remaining_s
    assert remaining is not None
    assert remaining < 2 * WITHIN_S  # it is rounded up on its way
    served.fault = failing(Code.DEADLINE_EXCEEDED, "too late")
    assert failure(member) == "did not answer within 60 s"
    served.fault = None
    np.testing.assert_array_equal(member.predict(ROWS), softmax(ROWS))


TENSOR = {"name": "probabilities", "datatype": "FP64", "shape": [1, 3]}


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (failing(Code.INVALID_ARGUMENT, "unexpected shape"), "INVALID_ARGUMENT: unexpected shape"),
        (failing(Code.INTERNAL, "\x1b[2J" + "x" * 9999), "INTERNAL: [2Jxxx"),
        (failing(Code.UNAVAILABLE), "UNAVAILABLE: nothing"),
        (servers.bomb, "essage larger than max"),
        (saying(b"no message"), "the server's answer is no ModelInferResponse: "),
        (saying(b""), "answered with the tensors []"),
        (answering(softmax(ROWS), name="logits"), "answered with the tensors [logits]"),
        (answering([[np.nan, 1.0, 0.0]]), "answered with figures that are no distribution over classes"),
        (answering([[np.inf, 1.0, 0.0]]), "answered with figures that are no distribution over classes"),
        (answering([[0.5, 0.5, 0.0]], raw=[b"seven b"]), "answered with what is no tensor: buffer size must be"),
        (answering([[0.5, 0.5, 0.0]], raw=[b""]), "answered with 0 figures in the shape [1, 3]"),
        (answering([[0.5, 0.5, 0.0]], raw=[]), "answered with 0 figures in the shape [1, 3]"),
        (answering([[0.5, 0.5, 0.0]], raw=[b"", b""]), "answered with the contents of 2 tensors, but 1 tensors"),
        (answering([[0.5, 0.5]]), "answered with shape (1, 2) to 1 rows of 3 classes"),
        (answering([[0.5, 0.5, 0.0]] * 2), "answered with shape (2, 3) to 1 rows of 3 classes"),
        (answering([[0.5, 0.5, 0.5]]), "answered with figures that are no distribution over classes"),
        (answering([[0.5, 0.5, 0.0]], shape=[1, 4]), "answered with 3 figures in the shape [1, 4]"),
        (answering([[0.5, 0.5, 0.0]], shape=[-1, -3]), "no rows of numbers, in the shape [-1, -3]"),
        (answering([[[0.5, 0.5, 0.0]]]), "answered with what are no rows of numbers, in the shape [1, 1, 3]"),
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
    assert "UNAVAILABLE: " in failure(member)
    with serving(port=int(served.url.rpartition(":")[2])):
        eventually(lambda: _answers(member), "it answers again")


def _answers(member: RemoteMember) -> bool:
    try:
        return bool(np.array_equal(member.predict(ROWS), softmax(ROWS)))
    except MemberFailure:
        return False


def test_a_call_whose_connection_is_closed_has_failed(served: Served) -> None:
    member = member_of(served)
    served.fault = servers.hang
    served.asked.clear()
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(failure, member)
        served.asked.wait()
        member.stop()
        assert call.result() == "its connection was closed meanwhile"
    served.fault = None
    np.testing.assert_array_equal(member.predict(ROWS), softmax(ROWS))


def test_a_call_that_is_given_up_takes_no_other_along(served: Served) -> None:
    check_giving_up(served)


# ---- What cannot be used is refused at the door ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "named", "why"),
    [
        (b"", {}, "does not tell what the model takes; name its tensor, as in input: input-0"),
        (b"no message", {}, "the server's answer is no ModelMetadataResponse"),
        (metadata(outputs=("a", "b")), {}, "has the outputs a, b; name one of them"),
        (metadata(inputs=({"name": "x", "datatype": "INT64", "shape": [-1, 4]},)), {}, "takes INT64, not FP32 or FP64"),
        (
            metadata(inputs=({"name": "x", "datatype": "FP32", "shape": [-1, 10**12]},)),
            {},
            r"takes rows of shape \(1000000000000,\), which are too large to be sent as one message",
        ),
        (metadata(), {"model": "other"}, "NOT_FOUND: Model other not found"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_with_what_to_do(
    served: Served, told: bytes, named: dict[str, str], why: str
) -> None:
    served.metadata = told
    with pytest.raises(BandmasterError, match=f"^{served.url}/v2/models/.*: member 'far': .*{why}"):
        member_of(served, **named)


@pytest.mark.parametrize("code", Code)
def test_what_a_server_says_when_it_is_met_keeps_it_out_for_good_or_until_it_is_met(
    served: Served, code: grpc.StatusCode
) -> None:
    if code is Code.OK:
        return
    served.fault = failing(code, "so it is")
    refused = {"INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "FAILED_PRECONDITION"}
    if code.name in refused | {"OUT_OF_RANGE", "UNIMPLEMENTED", "UNAUTHENTICATED"}:
        with pytest.raises(BandmasterError, match=f"{code.name}: so it is"):
            member_of(served)
        return
    member = member_of(served)
    assert member.unmet == ("did not answer within 5 s" if code is Code.DEADLINE_EXCEEDED else f"{code.name}: so it is")
    member.suppose((4,), CLASSES)
    served.fault = None
    np.testing.assert_array_equal(member.predict(ROWS), softmax(ROWS))


@pytest.mark.parametrize("url", ["grpc://127.0.0.1:99999", "grpc://[::1:8001"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(BandmasterError, match="its address cannot be used"):
        RemoteMember("far", Endpoint(url, "m"))


def test_who_reads_a_configuration_needs_no_grpc_and_who_serves_it_is_told_what_to_install(tmp_path: Path) -> None:
    members = {"here": {"onnx": "tree.onnx"}, "far": {"open_inference": "grpc://far:8001", "model": "m"}}
    folder = project(tmp_path / "iris", members=members)
    script = (
        "import sys; sys.modules['grpc'] = None; from pathlib import Path; from bandmaster import config, hosting\n"
        "try: hosting.host(config.load(Path('bentofile.yaml')))\n"
        "except config.ConfigError as problem: print(problem)"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)
    assert (
        "args.orchestration.members.far: open_inference: grpc://far:8001 needs gRPC (import of grpc halted; None in "
        "sys.modules); pip install 'bandmaster[grpc]'"
    ) in ran.stdout, ran.stderr
    assert ran.stdout.startswith("bentofile.yaml")
