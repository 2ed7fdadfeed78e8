"""Records survive the trip through bytes to the last bit, and nothing else comes back."""

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bandmaster.core import (
    Answer,
    BandmasterError,
    Decision,
    DriftEvent,
    MemberAnswer,
    MemberStatistics,
    Outcome,
    Reward,
    State,
)
from bandmaster.journal.codec import decode, encode, rows_answered
from bandmaster.testing import same, sample_answer, sample_decision

finite = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(codec="utf-8"), max_size=12) | st.just('"null",null')
whole = st.integers(-(2**63), 2**63 - 1)
figures = st.dictionaries(text, finite, max_size=3)


def floats(axes: int) -> st.SearchStrategy:
    shapes = hnp.array_shapes(min_dims=axes, max_dims=axes, min_side=0, max_side=4)
    return hnp.arrays(np.float64, shapes, elements=finite)


def integers() -> st.SearchStrategy:
    return hnp.arrays(np.int64, st.integers(0, 4), elements=whole)


def texts() -> st.SearchStrategy:
    return st.lists(text, max_size=3).map(tuple)


members = st.builds(
    MemberAnswer,
    name=text,
    rows=integers(),
    scores=st.none() | floats(2),
    latency_s=finite,
    energy_j=finite,
    energy_from=st.sampled_from(["measured", "estimated", "declared"]),
    error=st.none() | text,
    cost=st.none() | finite,
    explainability=st.none() | finite,
)
said = st.lists(members, max_size=2).map(tuple)
statistics = st.builds(MemberStatistics, *[floats(1)] * 6)
states = st.builds(State, whole, floats(1), texts(), statistics, floats(1), finite)
records = st.one_of(
    st.builds(Decision, text, finite, texts(), floats(1), whole, text, text, states, finite, finite),
    st.builds(Answer, floats(2), integers(), floats(1), said, whole, floats(1), said),
    st.builds(Outcome, finite, labels=st.lists(whole, max_size=4).map(tuple)),
    st.builds(Outcome, finite, reward=st.floats(0, 1)),
    st.builds(DriftEvent, text, finite, text),
    st.builds(Reward, finite, figures, figures),
)


@settings(max_examples=300, deadline=None)
@given(records)
def test_every_record_comes_back_to_the_last_bit(record):
    assert same(decode(encode(record), type(record)), record)


@given(st.integers(1, 5), st.binary(max_size=40))
def test_how_many_rows_an_answer_is_to_is_read_off_its_bytes(rows, garbage):
    answer = replace(sample_answer(), labels=np.zeros(rows, dtype=np.int64))
    raw = encode(answer)
    assert rows_answered(raw) == rows_answered(raw[:-9]) == rows
    assert rows_answered(raw[:20] + b" " + raw[20:]) is None  # its CRC is another
    assert rows_answered(garbage) is None


@pytest.mark.parametrize("value", [-0.0, 5e-324, 0.1, 1 / 3, 1.7976931348623157e308, 1e22])
def test_awkward_floats_keep_their_bits(value):
    decision = replace(sample_decision(), at=value, probabilities=np.array([value]))
    assert same(decode(encode(decision), Decision), decision)


def test_an_array_without_rows_keeps_its_columns():
    answer = replace(sample_answer(), scores=np.zeros((0, 7)), labels=np.zeros(0, dtype=np.int64))
    assert decode(encode(answer), Answer).scores.shape == (0, 7)
    assert decode(encode(answer), Answer).labels.dtype == np.int64


def test_numpy_scalars_are_stored_as_plain_numbers():
    outcome = Outcome(at=np.float64(1.5), labels=(np.int64(3),))
    assert decode(encode(outcome), Outcome) == Outcome(at=1.5, labels=(3,))


D, A = sample_decision(), sample_answer(probes=True)
NOT_FINITE = {
    "a time": lambda x: replace(D, at=x),
    "a probability": lambda x: replace(D, probabilities=np.array([0.5, x, 0.5])),
    "a feature": lambda x: replace(D, state=replace(D.state, features=np.array([x]))),
    "a statistic": lambda x: replace(
        D, state=replace(D.state, members=replace(D.state.members, energy_j=np.array([x, x])))
    ),
    "a score": lambda x: replace(A, scores=np.array([[0.5, x]])),
    "a member's score": lambda x: replace(A, ran=(replace(A.ran[0], scores=np.array([[x]])),)),
    "a member's cost": lambda x: replace(A, ran=(replace(A.ran[0], cost=x),)),
    "a probe's energy": lambda x: replace(A, probes=(replace(A.probes[0], energy_j=x),)),
    "an outcome's time": lambda x: Outcome(at=x, labels=(1,)),
    "an event's time": lambda x: DriftEvent("reward", x, "null"),
    "a raw figure": lambda x: Reward(0.5, {"latency": x}, {}),
}


@pytest.mark.parametrize("make", NOT_FINITE.values(), ids=NOT_FINITE)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(make, value):
    with pytest.raises(BandmasterError):
        encode(make(value))


def test_the_refusal_names_the_place():
    with pytest.raises(BandmasterError, match=r"\$\.state\.reward"):
        encode(replace(D, state=replace(D.state, reward=float("nan"))))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        encode(D)[:-1],
        encode(A),
        encode(D).replace(b'"chosen":', b'"chosen":1.5,"x":'),
        encode(D).replace(b'"probabilities":[', b'"probabilities":[1e999,'),
        encode(D).replace(b'"probabilities":[', b'"probabilities":["1",'),
        encode(D).replace(b'"probabilities":[', b'"probabilities":[[1],'),
        encode(D).replace(b'"probabilities":[', b'"probabilities":[null,'),
        encode(D).replace(b'"probabilities":[', b'"probabilities":{"shape":[2]},"x":['),
        encode(D).replace(b'"probabilities":[', b'"probabilities":{"shape":[0,-1]},"x":['),
        encode(D).replace(b'"probabilities":[', b'"probabilities":{"shape":[0,99999999999999999999]},"x":['),
        encode(D).replace(b'"probabilities":[', b'"probabilities":{},"x":['),
    ],
    ids=range(16),
)
def test_corrupt_bytes_are_refused(raw):
    with pytest.raises(BandmasterError, match="no Decision"):
        decode(raw, Decision)


def test_a_label_that_is_no_integer_is_refused():
    with pytest.raises(BandmasterError):
        decode(encode(A).replace(b'"labels":[', b'"labels":[0.5,'), Answer)


def test_an_outcome_with_both_a_label_and_a_reward_is_refused():
    with pytest.raises(BandmasterError, match="exactly one"):
        decode(b'{"at":1.0,"labels":[1],"reward":0.5}', Outcome)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(encode(D)) - 1), st.integers(0, 255))
def test_one_changed_byte_gives_a_record_or_our_error(place, byte):
    raw = bytearray(encode(D))
    raw[place] = byte
    with suppress(BandmasterError):
        assert isinstance(decode(bytes(raw), Decision), Decision)


@given(records, st.data())
@settings(max_examples=200)
def test_a_byte_that_was_altered_anywhere_is_noticed(record, data):
    raw = bytearray(encode(record))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BandmasterError):
        decode(bytes(raw), type(record))


def test_what_was_written_before_there_was_a_crc_is_read():
    raw = encode(sample_decision())
    assert raw[-9:-8] == b"#"
    assert same(decode(raw[:-9], Decision), sample_decision())
