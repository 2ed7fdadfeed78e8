"""The vocabulary: every record that is passed around and every protocol that is implemented.

Read this file first. Records are frozen; arrays inside them are read-only by convention. Members, plans and
classes are addressed by their index in the ensemble's order wherever an array has an axis for them:
``M`` members, ``P`` plans, ``C`` classes, ``n`` rows of one request.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

NO_ANSWER = -1
"""The class index of an answer that nobody gave (every member that ran failed or abstained)."""

DEFAULT_PROFILE = "default"
"""The preference of a request that names none: the contract's own weights."""

VALUE = "value"
"""The only class of a regression: the one column of its scores, which holds values instead of probabilities."""

CPU = "CPUExecutionProvider"

PROVIDERS = {
    "cpu": CPU,
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
"""What of ONNX Runtime runs models, by their short names. It knows others, too."""

Task = Literal["classification", "regression"]
Weighting = Literal["uniform", "recent", "declared", "learned"]
Provenance = Literal["measured", "estimated", "declared"]


class BandmasterError(Exception):
    """Base of every error a user can cause. Its text names the place, the value and the fix."""


class MemberFailure(Exception):  # noqa: N818 - it says what it is
    """A call of a member failed, as the text says, after so much CPU time (s) elsewhere than on the calling thread.

    Where it had ``no_turn``, others were being answered: nobody knows what it would have said.
    """

    def __init__(self, text: str, busy_s: float = 0.0, *, no_turn: bool = False) -> None:
        super().__init__(text)
        self.busy_s, self.no_turn = busy_s, no_turn


@dataclass(frozen=True, slots=True)
class Profile:
    """What is declared of one member; ``None`` means unknown. What one request costs, when nobody measures it.

    ``accuracy`` in [0, 1] is where its recent accuracy starts; ``calibration``, its expected calibration error in
    [0, 1], is for reading only. ``bandmaster profile`` measures all but ``cost``.
    """

    latency_s: float | None = None
    energy_j: float | None = None
    cost: float | None = None
    explainability: float | None = None
    accuracy: float | None = None
    calibration: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The action: stages of members run one after the other until the combined confidence suffices.

    A single member is one stage of one; a subset is one stage of several; a cascade has several stages and a
    ``stop_at`` in (0, 1], one threshold a stage but the last. ``weights`` says how the combiner pools the members that
    have answered: alike, by recent accuracy, as declared of them, by what was learned of all that they say
    (``belief.Belief``), or by numbers above 0 of the plan's own, one for each of its ``members``.
    """

    stages: tuple[tuple[str, ...], ...]
    weights: Weighting | tuple[float, ...] = "uniform"
    stop_at: tuple[float, ...] = ()

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(name for stage in self.stages for name in stage)

    @property
    def name(self) -> str:
        """``linear``, ``linear+forest``, ``a>b+c@0.9``, ``a>b>c@0.9,0.6``; ``~recent``, ``~declared`` and ``~learned``
        mark weights, as does ``0.5*a+b``.

        One threshold stands for all that equal it.
        """
        own = dict.fromkeys(self.members, 1.0)
        if not isinstance(self.weights, str):
            own = dict(zip(self.members, self.weights, strict=True))
        text = ">".join("+".join(n if own[n] == 1.0 else f"{own[n]:g}*{n}" for n in s) for s in self.stages)
        if self.stop_at:
            text += "@" + ",".join(
                f"{t:g}" for t in (self.stop_at[:1] if len(set(self.stop_at)) == 1 else self.stop_at)
            )
        return text + (f"~{self.weights}" if isinstance(self.weights, str) and self.weights != "uniform" else "")


@dataclass(frozen=True, slots=True)
class Request:
    """What arrives: ``rows`` for the members, and what a policy may look at before choosing.

    ``features`` (d,) are numeric, in the request's own units; ``tags`` are categorical, ``("country=NL",)``.
    ``at`` is Unix time in seconds. ``profile`` names the weights by which its reward is to be judged; ``deadline_s``
    tightens the configured deadline for it alone.
    """

    rows: Array
    features: FloatArray
    at: float
    tags: tuple[str, ...] = ()
    profile: str = DEFAULT_PROFILE
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class MemberStatistics:
    """Streaming statistics, one entry a member; windowed means of what was seen. All arrays are (M,).

    ``labelled`` counts the outcomes behind ``accuracy`` since the last drift alarm; 0 means that the accuracy
    is still the prior. ``agreement`` is the share of answers equal to the combined answer.
    """

    accuracy: FloatArray
    confidence: FloatArray
    agreement: FloatArray
    latency_s: FloatArray
    energy_j: FloatArray
    labelled: FloatArray


def class_prior(mix: FloatArray, repeats: float | FloatArray, newest: int | IntArray) -> FloatArray:
    """How likely each class is: ``repeats`` in [0, 1] of requests are of the ``newest`` class, the others as ``mix``
    (C,) has it. Returns (C,), ``mix`` itself where nothing repeats, or (n, C) for n newest classes and as many shares;
    ``NO_ANSWER`` is none.
    """
    if isinstance(newest, int) and isinstance(repeats, float):  # of one request, as in every decision
        of_newest = repeats * (newest != NO_ANSWER)
        if not of_newest:
            return mix
        prior = np.asarray((1.0 - of_newest) * mix)
        prior[newest] += of_newest
        return prior
    newest = np.asarray(newest)[..., None]
    share = np.asarray(repeats)[..., None] * (newest != NO_ANSWER)
    return np.asarray((1.0 - share) * mix + share * (newest == np.arange(len(mix))))


@dataclass(frozen=True, slots=True)
class State:
    """What is known at decision time. ``features`` (d,) are the request's; ``label_mix`` (C,) sums to 1;
    ``probe_share`` in [0, 1] is the probability with which a request is to be probed now, and ``doubt`` in [0, 1] how
    unsure answers are of late, on average; 0 where all requests are probed alike. ``profile`` names the weights that
    the request is judged by. ``fits`` says which plans of the policy's catalogue may be chosen, at least one of them,
    as they keep within the limits and need nobody who is out of service; it is empty where all may. ``out`` (M,) says
    who is that, and is empty where nobody is. ``expected`` (M,) is how often each member is right on requests with such
    features, ``usual`` (M,) how often on those of late; both are empty where nothing is known of that, and (n, M) where
    several requests are answered together, as rows of one.

    So many ``requests`` had been answered before, as far as the learner knew. ``newest`` is the class of the last row
    of the latest of them whose label had come, ``NO_ANSWER`` where none had; that one came ``since`` requests ago, and
    ``repeats`` in [0, 1] says by how much oftener than its share in the mix its class is met again so long after.
    """

    version: int
    features: FloatArray
    tags: tuple[str, ...]
    members: MemberStatistics
    label_mix: FloatArray
    reward: float
    probe_share: float = 0.0
    doubt: float = 0.0
    profile: str = DEFAULT_PROFILE
    fits: tuple[bool, ...] = ()
    out: tuple[bool, ...] = ()
    expected: FloatArray = field(default_factory=lambda: np.zeros(0))
    usual: FloatArray = field(default_factory=lambda: np.zeros(0))
    requests: int = 0
    newest: int = NO_ANSWER
    since: int = 1
    repeats: float = 0.0

    @property
    def prior(self) -> FloatArray:
        """How likely the request is of each class before any member was asked, (C,)."""
        return class_prior(self.label_mix, self.repeats, self.newest)

    def of(self, rows: IntArray) -> State:
        """The state for some ``rows`` of a request: itself, but where ``expected`` differs from row to row."""
        if self.expected.ndim == 1:
            return self
        return replace(self, expected=self.expected[rows], usual=self.usual[rows])

    def within(self, values: FloatArray) -> FloatArray:
        """What the policy's plans are worth, (P,), and −∞ for those that break a limit."""
        return np.where(self.fits, values, -np.inf) if self.fits else values


@dataclass(frozen=True, slots=True)
class Exposure:
    """What a guard made of the policy's choice, the plan ``intended``, chosen with probability ``p``: with probability
    ``share`` that answers, which may cost so much reward at ``most`` against the baseline; ``exposed`` says whether it
    does. It is never exposed where it is the baseline itself.
    """

    intended: str
    p: float
    share: float
    exposed: bool
    most: float


@dataclass(frozen=True, slots=True)
class Decision:
    """What was offered, with which probabilities, what was sampled, and by whom.

    ``plans`` are the names of the policy's catalogue at that time, ``probabilities`` (P,) exactly those sampled from.
    ``probe_p`` is the probability with which this request is probed: the share of its state until it is answered, then
    what follows from how sure the answer is (``probes.aimed``). ``lot`` in [0, 1] is the number drawn for that.
    ``over_limits`` is set where no plan on offer kept within the limits. With a guard the probabilities are those with
    which each plan answers, the baseline among them, and ``exposure`` says what the policy itself had chosen.
    """

    id: str
    at: float
    plans: tuple[str, ...]
    probabilities: FloatArray
    chosen: int
    policy: str
    policy_version: str
    state: State
    probe_p: float = 0.0
    lot: float = 1.0
    over_limits: bool = False
    exposure: Exposure | None = None

    @property
    def plan(self) -> str:
        return self.plans[self.chosen]

    @property
    def profile(self) -> str:
        return self.state.profile

    @property
    def propensity(self) -> float:
        return float(self.probabilities[self.chosen])

    @property
    def is_policys(self) -> bool:
        """Whether the plan that answers is the one that the policy chose."""
        return self.exposure is None or self.plan == self.exposure.intended

    @property
    def explored(self) -> bool:
        """Whether another plan than the most probable one was drawn, where no guard stands between."""
        return self.exposure is None and self.propensity < float(self.probabilities.max()) - 1e-9

    @property
    def followed(self) -> float:
        """How much it counts for that the policy chose this plan, with the probability ``chosen_p``: 1 where nothing
        stood between, 0 where a guard had another plan answer. Where the policy chose the baseline itself, as much as
        other plans were likely to answer: so that all plans are seen as often as they are chosen.
        """
        if self.exposure is None:
            return 1.0
        if not self.is_policys:
            return 0.0
        return 1.0 if self.exposure.exposed else self.exposure.share

    @property
    def chosen_p(self) -> float:
        """The probability with which the policy itself chose its plan."""
        return self.propensity if self.exposure is None else self.exposure.p

    @property
    def probed(self) -> bool:
        """Whether all other members run too, after the reply."""
        return self.lot < self.probe_p

    @property
    def stands_for(self) -> float:
        """Of how many requests its probe tells: above 1 where it was less likely to be probed than others, or below; 1
        where it was not probed.
        """
        return self.state.probe_share / self.probe_p if self.probed else 1.0


@dataclass(frozen=True, slots=True)
class MemberAnswer:
    """What one member said to one request, and what that took.

    ``rows`` (k,) are the indices of the rows it saw, ``scores`` (k, C) its distributions over classes; a row
    of zeros is an abstention. In regression they are values (k, 1), and nobody abstains. ``scores`` is ``None`` when
    the member failed, and ``error`` says how. It ``teaches`` nothing of the member where that was cut short for want of
    the request's time, or stood in for others that failed: what such requests are like is not what others are. ``cost``
    and ``explainability`` are ``None`` unless this very call reported them; the profile holds then.
    """

    name: str
    rows: IntArray
    scores: FloatArray | None
    latency_s: float
    energy_j: float
    energy_from: Provenance
    error: str | None = None
    cost: float | None = None
    explainability: float | None = None
    teaches: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """The reply: combined ``scores`` (n, C), ``labels`` (n,) class indices, ``confidence`` (n,) in [0, 1].

    In regression the ``scores`` (n, 1) are the values, of the one class that there is: ``labels`` are 0, ``NO_ANSWER``
    where nobody answered, and so the confidence is 1 or 0.

    ``ran`` are the members that ran for the reply in run order, ``probes`` those that ran after it. Stage
    ``s`` of the plan ran iff ``s < stages_run``, without those of its members that were out of service. Where others
    stand in for a plan whose members all fail, ``stand_ins`` is set, and members beyond the plan ran so, one after the
    other; ``down`` is set where every member failed, so that nothing can be learned of the plan. ``weights`` (M,) are
    the combiner's recent-accuracy weights in force, kept so that any plan can be evaluated later as it would have been
    then.
    """

    scores: FloatArray
    labels: IntArray
    confidence: FloatArray
    ran: tuple[MemberAnswer, ...]
    stages_run: int
    weights: FloatArray
    probes: tuple[MemberAnswer, ...] = ()
    stand_ins: bool = False
    down: bool = False

    @property
    def sureness(self) -> float:
        """The mean ``confidence``, over the rows."""
        return float(np.add.reduce(self.confidence)) / len(self.confidence)  # a third of what ``mean`` takes

    @property
    def doubt(self) -> float:
        """How unsure it is, over the rows, in [0, 1]."""
        return 1.0 - self.sureness


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the caller reports: ``labels``, one a row, or a ``reward`` in [0, 1]. Or, where the contract takes accuracy
    from ``consensus``, that nobody reports anything and the other members judge. Exactly one.

    A label is a class index, in regression the value. ``source`` is who reported it, where that is known.
    """

    at: float
    labels: tuple[int | float, ...] | None = None
    reward: float | None = None
    consensus: bool = False
    source: str = ""

    def __post_init__(self) -> None:
        if (self.labels is not None) + (self.reward is not None) + self.consensus != 1:
            raise ValueError("an outcome has either labels or a reward or is left to consensus, exactly one of them")
        if self.reward is not None and not 0.0 <= self.reward <= 1.0:
            raise ValueError(f"a reward lies in [0, 1], not {self.reward!r}")


@dataclass(frozen=True, slots=True)
class Reward:
    """The contract's verdict: ``value`` in [0, 1], each metric's raw figure and its term ``f(metric)``."""

    value: float
    raw: Mapping[str, float]
    terms: Mapping[str, float]


class Status(StrEnum):
    """What became of a reported outcome."""

    JOINED = "joined"
    EARLY = "early"
    LATE = "late"
    DUPLICATE = "duplicate"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Joined:
    """A decision with its answer and its outcome; ``seq`` is its place in the order of settlement, from 1."""

    seq: int
    decision: Decision
    answer: Answer
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Settlement:
    """The journal's reply to an outcome. ``joined`` is set iff ``status`` is JOINED."""

    status: Status
    joined: Joined | None = None


@dataclass(frozen=True, slots=True)
class DriftEvent:
    """An alarm: which detector (``accuracy:linear``, ``reward``), when (Unix s), and why, in one sentence.

    ``seen`` counts the observations since the change, as far as the detector can tell; 0 where nobody noted it.
    """

    name: str
    at: float
    cause: str
    seen: int = 0


@dataclass(frozen=True, slots=True)
class Figures:
    """Per member figures of one request or of each of B requests, (M,) or (B, M); NaN where unknown."""

    latency_s: FloatArray
    energy_j: FloatArray
    cost: FloatArray
    explainability: FloatArray


CONFIDENCE_EDGES = np.array([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.88, 0.94, 0.97, 0.99, 0.999])
"""Where one bucket of confidence ends and the next begins: finer where members are usually sure."""


@dataclass(frozen=True, slots=True)
class Said:
    """What members said to rows, both (n, M): the class index, C for an abstention; and the bucket of confidence."""

    label: IntArray
    bucket: IntArray

    @classmethod
    def of(cls, scores: FloatArray) -> Said:
        """From distributions (n, M, C); a row of zeros is an abstention."""
        confidence: FloatArray = np.maximum.reduce(scores, axis=-1)
        label = scores.argmax(axis=-1)
        label[~(confidence > 0.0)] = scores.shape[-1]
        return cls(label, CONFIDENCE_EDGES.searchsorted(confidence, side="right"))


@dataclass(frozen=True, slots=True)
class Errors:
    """What members' values are believed to be off by: each one's ``bias`` (M,), and the ``covariance`` (M, M) of what
    is left.
    """

    bias: FloatArray
    covariance: FloatArray

    def expected(self, errors: FloatArray) -> FloatArray:
        """Every member's error (M,), from those that are known: the others of ``errors`` (M,) are NaN."""
        known = ~np.isnan(errors)
        if not known.any():
            return self.bias
        together = np.linalg.solve(self.covariance[np.ix_(known, known)], errors[known] - self.bias[known])
        return np.asarray(self.bias + self.covariance[:, known] @ together)

    def weights(self, members: BoolArray) -> FloatArray:
        """How the values of each of U sets of ``members`` (U, M) are averaged, (U, M), once their biases are taken off:
        so that the squared error is least (Bates & Granger 1969, "The combination of forecasts"), no weight below 0.
        """
        both = members[:, :, None] & members[:, None, :]
        aside = ~members[:, :, None] * np.eye(members.shape[1])
        # A set's own covariance, and 1 on the diagonal where a member is not of it.
        weights = np.linalg.solve(np.where(both, self.covariance, aside), members[:, :, None] * 1.0)[..., 0]
        weights = np.maximum(weights, 0.0) * members
        total = weights.sum(axis=1, keepdims=True)
        return np.where(total > 0.0, weights / np.where(total > 0.0, total, 1.0), members)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for each class: ``log_likelihood`` (n, M, C) of what each member said, and the ``log_prior`` (C,),
    or (n, 1, C) where it differs from row to row.

    ``s`` members that err together count for ``s**(1 - overlap)``; 0 where they err independently, 1 for copies of one.
    In regression it is ``errors`` that counts, and is there.
    """

    log_likelihood: FloatArray
    log_prior: FloatArray
    overlap: float
    errors: Errors | None = None


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a settled decision teaches by itself, whatever has been learned before.

    ``reward`` is what the request earned, a probe charged; ``own`` the chosen plan's reward, in [0, 1], without that
    charge, and ``own_raw`` the figures that make it under any profile's weights, ``None`` where a reward was reported
    and not computed. ``scores`` (n, M, C) is what the members said (zeros where one abstained, failed or is unknown),
    ``said`` what that comes down to, ``known`` (n, M) whose answer, abstention or failure is known, ``figures`` (M,)
    what each took as the contract means it. ``habits`` (4, M) are how sure each member was, how far it agreed with the
    answer, its latency (s) and energy (J), NaN where unknown. ``truth`` (n,) are the labels, or ``None`` where none
    were reported. ``correct`` (M,) is each member's accuracy on this request, its agreement with the others where
    consensus judges, NaN where it is unknown.

    In regression ``scores`` (n, M, 1) are the members' values, NaN where unknown; ``truth`` is ``None``, the labels are
    ``values`` (n,), and ``correct`` is what the contract's accuracy makes of each member's errors.
    """

    joined: Joined
    reward: Reward
    own: float
    own_raw: Mapping[str, float] | None
    scores: FloatArray
    said: Said
    known: BoolArray
    figures: Figures
    habits: FloatArray
    truth: IntArray | None
    values: FloatArray | None
    correct: FloatArray


@dataclass(frozen=True, slots=True)
class Experience(Lesson):
    """What a policy learns from: a lesson, and what was believed before it. ``counterfactual.revealed`` tells from it
    what other plans would have earned.

    ``evidence`` is what was said speaks for (worked out when it is first asked for, where a reward was reported, which
    changes no belief); ``mix`` (C,) are the classes' shares, and ``repeats`` (lags,) how far they repeat
    (``estimators.Repetition``). ``alarms`` were raised by this very outcome. In regression ``corrected`` (M,) is what
    the contract's accuracy makes of each member's errors once the bias is taken off that was believed in.
    """

    speaks: Callable[[], Evidence]
    mix: FloatArray
    repeats: FloatArray
    alarms: tuple[DriftEvent, ...] = ()
    corrected: FloatArray | None = None

    @property
    def evidence(self) -> Evidence:
        return self.speaks()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Sealed learner state. ``cursor`` is the ``seq`` of the last settlement it has learned from."""

    version: int
    cursor: int
    at: float
    payload: bytes


@dataclass(frozen=True, slots=True)
class Counts:
    """The journal's ledger. Every outcome ever reported is in exactly one of the five fields after
    ``decisions``; ``joined`` includes those that came early and found their decision later.
    """

    decisions: int = 0
    joined: int = 0
    early: int = 0
    late: int = 0
    duplicate: int = 0
    unknown: int = 0


@runtime_checkable
class Member(Protocol):
    """One model of the ensemble.

    One whose energy cannot be measured here, as it runs elsewhere or on no CPU, may have ``energy_j``: what is declared
    of a row, ``None`` where nobody says.
    """

    name: str

    def predict(self, rows: Array) -> FloatArray:
        """Return (n, C) distributions over classes for (n, d) rows. A row of zeros is an abstention.

        In regression, return (n, 1) values.
        """
        ...


@runtime_checkable
class Interruptible(Member, Protocol):
    """A member whose calls can be ended."""

    def predict_within(self, rows: Array, seconds: float) -> tuple[FloatArray, float]:
        """As ``predict``, in at most so many ``seconds`` > 0; with the CPU time (s) that was spent elsewhere than on
        the calling thread. Raises ``MemberFailure`` when it took longer.
        """
        ...


@runtime_checkable
class Meter(Protocol):
    """Runs a member and says what that took."""

    def run(self, member: Member, rows: Array, index: IntArray, within_s: float = math.inf) -> MemberAnswer:
        """Run ``member`` on ``rows[index]``, within so many seconds if it can be interrupted. A member's exception
        becomes ``MemberAnswer.error``.
        """
        ...


class Offer(Protocol):
    """The plans that a policy offers, P of them, and their names: a ``plans.Catalogue``."""

    @property
    def plans(self) -> tuple[Plan, ...]: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...


@runtime_checkable
class Policy(Protocol):
    """Offers plans, gives a distribution over them, and learns from what came of it. Nothing else chooses.

    A policy may declare two things more, which spare replays work and change nothing: ``reads_state = False`` where it
    reads nothing of a state, nor of an experience's evidence and alarms, but the request's own features, tags and
    profile and ``fits``; and ``draws = False`` where no seed makes a difference to it. Where it has
    ``probabilities_each(states)``, which gives ``probabilities`` in each of several states, (n, P) and the same to the
    bit, requests that come together are decided by that.
    """

    name: str
    probes: bool
    """Whether it learns from probes; a policy that does not is never charged for any."""
    aims: bool
    """Whether it weighs what probes reveal, so that they may be aimed at requests whose answers are unsure."""

    @property
    def version(self) -> str:
        """Changes whenever learning may have changed ``catalogue`` or ``probabilities``."""
        ...

    @property
    def catalogue(self) -> Offer:
        """The plans it offers now. Only ``learn``, ``notice`` and ``load`` may change them."""
        ...

    def probabilities(self, state: State) -> FloatArray:
        """Return a distribution over the plans of ``catalogue``, (P,). Pure until the next ``learn`` or ``notice``."""
        ...

    def learn(self, experience: Experience) -> None:
        """Learn. The decision may have been over other plans than today's, and another policy's."""
        ...

    def dump(self) -> bytes:
        """Everything learned, the plans on offer included."""
        ...

    def load(self, snapshot: bytes) -> None:
        """Restore what ``dump`` gave. Raises ``BandmasterError`` on anything else."""
        ...


@runtime_checkable
class Noticing(Protocol):
    """A policy that also learns from probes whose outcomes are not known yet."""

    def notice(self, decision: Decision, said: Said, figures: Figures) -> None:
        """Learn from a probe what all members said (n, M) and took (M,); its outcome, if it ever comes, goes to
        ``learn``.
        """
        ...

    def forget(self, decision_id: str) -> bool:
        """Keep no single probe of this decision any more; whether there was one."""
        ...


@runtime_checkable
class Recorder(Protocol):
    """Where the request path leaves its decisions."""

    def record(self, decision: Decision, answer: Answer) -> None:
        """Store durably. A second record of the same unsettled decision replaces the first (a probe's)."""
        ...


@runtime_checkable
class Journal(Recorder, Protocol):
    """The durable record of decisions, answers, outcomes, events and snapshots."""

    def settle(self, decision_id: str, outcome: Outcome) -> Settlement:
        """Join an outcome to its decision, first wins. The id's signature has been verified already."""
        ...

    def due(self, now: float | None = None) -> Sequence[Joined]:
        """Join the early outcomes whose decisions have arrived since; each is returned once."""
        ...

    def save_reward(self, joined: Joined, reward: Reward) -> None:
        """Keep the contract's verdict on a joined decision."""
        ...

    def since(self, seq: int) -> Iterator[Joined]:
        """Every joined decision after ``seq``, in order of settlement."""
        ...

    def reject(self) -> None:
        """Count an outcome whose id nobody signed."""
        ...

    def counts(self) -> Counts: ...

    def save_event(self, event: DriftEvent) -> None: ...

    def events(self) -> Sequence[DriftEvent]: ...

    def save_snapshot(self, snapshot: Snapshot) -> None: ...

    def latest_snapshot(self) -> Snapshot | None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Ensemble:
    """The members in order, what each costs by profile, and the classes they answer with: ``VALUE`` in regression.

    ``weights`` are those declared of members; whoever is not named has 1.
    """

    names: tuple[str, ...]
    classes: tuple[int | str, ...]
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    task: Task = "classification"
    weights: Mapping[str, float] = field(default_factory=dict)

    def __hash__(self) -> int:
        """Of what differs between ensembles of one process: who edits weights must not make all of them collide."""
        return hash((self.names, self.task, frozenset(self.weights.items())))

    @property
    def regression(self) -> bool:
        return self.task == "regression"

    @property
    def declared_weights(self) -> FloatArray:
        """(M,), above 0."""
        return np.array([self.weights.get(name, 1.0) for name in self.names], dtype=np.float64)

    def index(self, name: str) -> int:
        return self.names.index(name)

    def class_index(self, label: int | float | str) -> int:
        """Raises ``BandmasterError`` for a label that is none of the classes."""
        try:
            if isinstance(label, float):
                raise ValueError
            return self.classes.index(label)
        except ValueError:
            shown = ", ".join(repr(c) for c in self.classes[:12]) + (" …" if len(self.classes) > 12 else "")
            raise BandmasterError(f"{label!r} is none of the classes; use one of {shown}") from None
