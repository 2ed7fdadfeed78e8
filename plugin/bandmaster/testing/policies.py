"""The contract suite of policies, and a small world to feed one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from bandmaster.contract import Contract, Metric
from bandmaster.core import BandmasterError, Ensemble, Experience, FloatArray, Outcome, Policy, Profile, State
from bandmaster.journal.memory import MemoryJournal
from bandmaster.learner import Learner
from bandmaster.orchestrator import Orchestrator, settle
from bandmaster.plans import Catalogue, generate, parse_plan
from bandmaster.recorded import RecordedLog, RecordedMember, RecordedMeter
from bandmaster.probes import Probing
from bandmaster.rl_manager import RLManager, checked_distribution
from bandmaster.state import StateManager

MakePolicy = Callable[[Catalogue, Contract], Policy]

CONTRACT = Contract.of(
    Metric("accuracy", 0.7),
    Metric("confidence", 0.05),
    Metric("latency", 0.15, goal="min", low=0.001, high=1.0, scale="log"),
    Metric("energy", 0.1, goal="min", low=0.001, high=1.0, scale="log"),
)


def sample_log(
    requests: int, seed: int = 0, *, members: int = 4, classes: int = 3, abstain: float = 0.05
) -> RecordedLog:
    """A small recorded ensemble: which member is good depends on the sign of the first feature; some abstain."""
    rng = np.random.default_rng(seed)
    names = tuple(f"m{i}" for i in range(members))
    profiles = {n: Profile(0.002 * 3.0**i, 0.002 * 3.0**i, 0.001 * (i + 1), 1.0 / (i + 1)) for i, n in enumerate(names)}
    truth = rng.integers(classes, size=requests)
    features = rng.normal(size=(requests, 3))
    home = (np.arange(members) % 2 == 0) == (features[:, :1] > 0)
    right = rng.random((requests, members)) < np.where(home, 0.9, 0.4)
    said = np.where(right, truth[:, None], (truth[:, None] + rng.integers(1, classes, size=right.shape)) % classes)
    sure = rng.uniform(1.0 / classes + 0.05, 0.99, size=right.shape)
    scores = np.repeat(((1.0 - sure) / (classes - 1))[..., None], classes, axis=2)
    np.put_along_axis(scores, said[..., None], sure[..., None], axis=2)
    scores[rng.random(right.shape) < abstain] = 0.0

    def column(figure: str) -> FloatArray:
        return np.tile([getattr(profiles[n], figure) for n in names], (requests, 1))

    return RecordedLog(
        ensemble=Ensemble(names, tuple(range(classes)), profiles),
        truth=truth,
        delay=np.zeros(requests, dtype=np.int64),
        at=np.arange(requests, dtype=np.float64),
        features=features,
        tags=(),
        phases=None,
        scores=scores.astype(np.float32),
        latency_s=column("latency_s"),
        energy_j=column("energy_j"),
        cost=column("cost"),
        explainability=column("explainability"),
        sha256="",
    )


def sample_catalogue(log: RecordedLog) -> Catalogue:
    plans = generate(log.ensemble, subsets=2, cascades=3, stop_at=(0.6, 0.8), limit=24)
    return Catalogue.of(log.ensemble, plans)


def sample_experiences(
    policy: Policy, log: RecordedLog, seed: int = 0, probe_share: float = 0.1
) -> Iterator[Experience]:
    """Let ``policy`` choose over ``log`` and learn; give each experience once it has been learned from."""
    manager = RLManager(policy, np.random.default_rng(seed))
    learner = Learner(log.ensemble, CONTRACT, StateManager(log.ensemble, probing=Probing(probe_share, adapt=False)), manager)
    journal, count = MemoryJournal(), itertools.count()
    orchestrator = Orchestrator(
        ensemble=log.ensemble,
        state=learner.state,
        manager=manager,
        members={n: RecordedMember(n, log.scores[:, m]) for m, n in enumerate(log.ensemble.names)},
        meter=RecordedMeter(log),
        recorder=journal,
        new_id=lambda at: str(next(count)),
    )
    for i in range(len(log)):
        request = log.request(i)
        decision, answer = orchestrator.answer(request)
        if decision.probed:
            orchestrator.probe(decision, answer, request)
        settled = settle(journal, learner, decision.id, Outcome(request.at, (int(log.truth[i]),)))
        assert settled.experience is not None, "a fresh decision joins its outcome"
        yield settled.experience


def check_policy(make: MakePolicy) -> None:
    """Assert the rules of ``Policy`` on what ``make`` gives for a catalogue and a contract: a policy that is new.

    Raises ``AssertionError``, which says in a sentence what was broken.
    """
    for rule in POLICY_RULES:
        rule(make)


def _new(make: MakePolicy, log: RecordedLog) -> Policy:
    return make(sample_catalogue(log), CONTRACT)


def _trained(make: MakePolicy, requests: int = 150) -> tuple[Policy, list[State]]:
    log = sample_log(requests)
    policy = _new(make, log)
    return policy, [e.joined.decision.state for e in sample_experiences(policy, log)]


def _its_plans_can_be_read_back_by_name(make: MakePolicy) -> None:
    log = sample_log(150)
    policy = _new(make, log)
    for _ in sample_experiences(policy, log):
        offer = policy.catalogue
        assert len(offer) == len(offer.plans) == len(offer.names) == len(set(offer.names)), "plans and names agree"
        for plan, name in zip(offer.plans, offer.names, strict=True):
            assert parse_plan(name, log.ensemble) == plan, "a plan is what its name says: journals keep the name alone"


def _it_gives_a_distribution_before_and_after_learning(make: MakePolicy) -> None:
    policy, states = _trained(make)
    for state in states[-20:]:
        checked_distribution(policy.probabilities(state), len(policy.catalogue), policy.name)


def _choosing_never_learns(make: MakePolicy) -> None:
    policy, states = _trained(make)
    before, version, names = policy.probabilities(states[-1]).copy(), policy.version, policy.catalogue.names
    for state in states:
        policy.probabilities(state)
    assert np.array_equal(before, policy.probabilities(states[-1])), "probabilities change only by learning"
    assert policy.version == version, "the version changes only by learning"
    assert policy.catalogue.names == names, "the plans on offer change only by learning"


def _a_new_version_says_that_it_has_changed(make: MakePolicy) -> None:
    log = sample_log(60)
    policy = _new(make, log)
    probe = StateManager(log.ensemble).get_state(log.request(0))
    version, names, before = policy.version, policy.catalogue.names, policy.probabilities(probe).copy()
    for _ in sample_experiences(policy, log):
        now = policy.probabilities(probe).copy()
        same = policy.catalogue.names == names and np.array_equal(now, before)
        assert same or policy.version != version, "other plans or probabilities, another version"
        version, names, before = policy.version, policy.catalogue.names, now


def _what_it_keeps_makes_another_its_equal(make: MakePolicy) -> None:
    policy, states = _trained(make)
    twin = _new(make, sample_log(150))
    twin.load(policy.dump())
    assert twin.version == policy.version, "a restored policy has the version of the one it was dumped from"
    assert twin.catalogue.names == policy.catalogue.names, "a restored policy offers the same plans"
    for state in states[-20:]:
        assert np.array_equal(policy.probabilities(state), twin.probabilities(state)), "a restored policy chooses alike"
    more = sample_log(30, seed=1)
    ours = [e.joined.decision.plan for e in sample_experiences(policy, more)]
    theirs = [e.joined.decision.plan for e in sample_experiences(twin, more)]
    assert ours == theirs, "a restored policy learns on like the one it was dumped from"


def _it_refuses_what_it_never_kept_and_stays_as_it_was(make: MakePolicy) -> None:
    policy, states = _trained(make)
    before, names = policy.probabilities(states[-1]).copy(), policy.catalogue.names
    for garbage in (b"garbage", policy.dump()[:-3] or b"\x00", b"\x80" * 64):
        try:
            policy.load(garbage)
        except BandmasterError:
            continue
        raise AssertionError("bytes that it never dumped are refused with BandmasterError")
    assert policy.catalogue.names == names, "a refused snapshot leaves everything in place"
    assert np.array_equal(before, policy.probabilities(states[-1])), "a refused snapshot leaves everything in place"


def _the_same_past_makes_the_same_policy(make: MakePolicy) -> None:
    one, states = _trained(make)
    other, _ = _trained(make)
    assert np.array_equal(one.probabilities(states[-1]), other.probabilities(states[-1])), "the same past, the same"


def _a_reward_of_zero_or_one_does_it_no_harm(make: MakePolicy) -> None:
    log = sample_log(40)
    policy = _new(make, log)
    for n, experience in enumerate(list(sample_experiences(_new(make, log), log))):
        extreme = replace(experience, own=float(n % 2), reward=replace(experience.reward, value=float(n % 2)))
        policy.learn(replace(extreme, truth=None, correct=np.full_like(experience.correct, np.nan)))
        state = experience.joined.decision.state
        checked_distribution(policy.probabilities(state), len(policy.catalogue), policy.name)


def _it_learns_from_decisions_over_other_plans(make: MakePolicy) -> None:
    log = sample_log(60)
    policy = _new(make, log)
    strange = Catalogue.of(log.ensemble, generate(log.ensemble, subsets=3, cascades=2, stop_at=(0.55,), limit=16))
    for experience in sample_experiences(make(strange, CONTRACT), log):
        policy.learn(experience)
        state = experience.joined.decision.state
        checked_distribution(policy.probabilities(state), len(policy.catalogue), policy.name)


POLICY_RULES: tuple[Callable[[MakePolicy], None], ...] = (
    _its_plans_can_be_read_back_by_name,
    _it_gives_a_distribution_before_and_after_learning,
    _choosing_never_learns,
    _a_new_version_says_that_it_has_changed,
    _what_it_keeps_makes_another_its_equal,
    _it_refuses_what_it_never_kept_and_stays_as_it_was,
    _the_same_past_makes_the_same_policy,
    _a_reward_of_zero_or_one_does_it_no_harm,
    _it_learns_from_decisions_over_other_plans,
)
