"""Every member passes the contract suite that ships with the package, and no member escapes it."""

import importlib
import inspect
import pkgutil
from contextlib import contextmanager

import numpy as np
import onnxruntime
import pytest
import skl2onnx
from sklearn.linear_model import LogisticRegression

import bandmaster.members
import bandmaster.recorded
from bandmaster.core import CPU, PROVIDERS, BandmasterError, Interruptible, Member
from bandmaster.members.batched import BatchedMember
from bandmaster.members.bento import BentoMember, Called
from bandmaster.members.isolated import IsolatedMember
from bandmaster.members.onnx import OnnxMember
from bandmaster.members.remote import Endpoint, RemoteMember
from bandmaster.recorded import RecordedMember
from bandmaster.testing import MEMBER_RULES, check_member, sample_log
from tests.members.servers import serving, softmax

ROWS = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


@contextmanager
def onnx(folder, kind=OnnxMember):
    rng = np.random.default_rng(1)
    model = LogisticRegression().fit(rng.normal(size=(60, 4)), rng.integers(3, size=60))
    path = folder / "model.onnx"
    path.write_bytes(skl2onnx.to_onnx(model, ROWS[:1], options={"zipmap": False}).SerializeToString())
    yield kind("onnx", path), ROWS


@contextmanager
def recorded(folder):
    log = sample_log(8, abstain=0.3)
    yield RecordedMember("m0", log.scores[:, 0]), np.arange(5)[:, None]


@contextmanager
def remote(folder):
    with serving() as served:
        member = RemoteMember("far", Endpoint(served.url, "m"))
        yield member, ROWS
        member.stop()


@contextmanager
def other(folder):
    async def ask(method, rows):
        assert method == "judge"
        return softmax(rows)

    member = BentoMember("other", Called("service:Other", "judge"))
    member.connect(ask)
    yield member, ROWS


@contextmanager
def batched(folder):
    with onnx(folder) as (member, rows):
        yield BatchedMember(member, 8), rows


SUITE = {
    OnnxMember: onnx,
    IsolatedMember: lambda folder: onnx(folder, IsolatedMember),
    BatchedMember: batched,
    RecordedMember: recorded,
    RemoteMember: remote,
    BentoMember: other,
}


@pytest.mark.parametrize("kind", SUITE)
@pytest.mark.parametrize("rule", MEMBER_RULES, ids=lambda rule: rule.__name__.strip("_"))
def test_every_member_keeps_every_rule(kind, rule, tmp_path):
    with SUITE[kind](tmp_path) as made:
        rule(*made)


def test_no_member_escapes_the_suite():
    found = pkgutil.iter_modules(bandmaster.members.__path__, "bandmaster.members.")
    modules = [importlib.import_module(module.name) for module in found]
    classes = {c for m in (*modules, bandmaster.recorded) for _, c in inspect.getmembers(m, inspect.isclass)}
    assert {c for c in classes if hasattr(c, "predict") and c not in (Member, Interruptible)} == set(SUITE)


class Unsure(RecordedMember):
    def predict(self, rows):
        return super().predict(rows) * 0.9 + 0.2


class Moody(RecordedMember):
    calls = 0

    def predict(self, rows):
        self.calls += 1
        return np.roll(super().predict(rows), self.calls, axis=1)


class Vandal(RecordedMember):
    def predict(self, rows):
        answer = super().predict(rows)
        rows[:] = 0
        return answer


@pytest.mark.parametrize("broken", [Unsure, Moody, Vandal])
def test_the_suite_notices_a_broken_member(broken):
    log = sample_log(8)
    with pytest.raises(AssertionError, match=r"\w+ \w+"):
        check_member(lambda: broken("m0", log.scores[:, 0]), np.arange(5)[:, None])


@pytest.mark.skipif(PROVIDERS["cuda"] in onnxruntime.get_available_providers(), reason="members can run on CUDA here")
@pytest.mark.parametrize("make", [OnnxMember, IsolatedMember])
def test_a_member_that_is_to_run_where_it_cannot_says_so_and_what_to_do(make, tmp_path):
    model = LogisticRegression().fit(np.eye(4), [0, 1, 0, 1])
    path = tmp_path / "model.onnx"
    path.write_bytes(skl2onnx.to_onnx(model, ROWS[:1], options={"zipmap": False}).SerializeToString())
    said = r"'wine' is to run on CUDAExecutionProvider, for which .*; it has .*CPUExecutionProvider: write one of them"
    with pytest.raises(BandmasterError, match=said):
        make("wine", path, providers=(PROVIDERS["cuda"], CPU))


@pytest.mark.parametrize("labels", [[1, 2, 3], ["red", "rose", "white"]])
def test_a_model_whose_labels_are_others_than_the_classes_says_so_and_how_to_mend_it(labels, tmp_path):
    rng = np.random.default_rng(1)
    model = LogisticRegression().fit(rng.normal(size=(60, 4)), rng.choice(labels, size=60))
    path = tmp_path / "model.onnx"
    path.write_bytes(skl2onnx.to_onnx(model, ROWS[:1], options={"zipmap": False}).SerializeToString())
    member = OnnxMember("wine", path)
    assert "list the labels in the model's order under classes:" in member.misnamed((0, 1, 2))
    assert member.misnamed(tuple(labels[::-1])) is not None
    assert member.misnamed(tuple(labels)) is None
