"""The contract suite of policies, and a small world to feed one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from bandmaster.belief import Belief
from bandmaster.calling import Caller, Faults
from bandmaster.contract import Contract, Metric
from bandmaster.core import (
    Answer,
    BandmasterError,
    Decision,
    DriftEvent,
    Ensemble,
    Experience,
    FloatArray,
    Journal,
    Meter,
    Outcome,
    Policy,
    Profile,
    State,
)
from bandmaster.guard import Admission, Guarding
from bandmaster.journal.memory import MemoryJournal
from bandmaster.learner import Learner
from bandmaster.limits import Limits
from bandmaster.orchestrator import Orchestrator, settle
from bandmaster.plans import Catalogue, generate, parse_plan
from bandmaster.probes import Probing
from bandmaster.recorded import RecordedLog, RecordedMember, RecordedMeter
from bandmaster.rl_manager import RLManager, checked_distribution
from bandmaster.state import StateManager

MakePolicy = Callable[[Catalogue, Contract, Belief], Policy]
"""Gives a policy that is new. The belief is the learner's own: the policy may read it, and never teaches it."""

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


def sample_learner(
    make: MakePolicy,
    log: RecordedLog,
    *,
    plans: Catalogue | None = None,
    probe_share: float = 0.1,
    contract: Contract = CONTRACT,
    guarding: Guarding | None = None,
) -> Learner:
    """A learner that has learned nothing, with what ``make`` gives for ``plans``, or for the sample catalogue."""
    state = StateManager(log.ensemble, probing=Probing(probe_share, adapt=False))
    policy = make(plans or sample_catalogue(log), contract, state.belief)
    return Learner(log.ensemble, contract, state, RLManager(policy, np.random.default_rng(0)), guarding)


def sample_orchestrator(
    learner: Learner,
    log: RecordedLog,
    journal: Journal,
    *,
    seed: int = 0,
    meter: Meter | None = None,
    limits: Limits | None = None,
    faults: Faults | None = None,
) -> Orchestrator:
    """Answers requests of ``log`` by what ``learner`` holds, drawing by ``seed``; ``meter`` goes before the log's."""
    count = itertools.count()
    members = {n: RecordedMember(n, log.scores[:, m]) for m, n in enumerate(log.ensemble.names)}
    return Orchestrator(
        ensemble=log.ensemble,
        state=learner.state,
        manager=RLManager(
            learner.manager.policy,
            np.random.default_rng(seed),
            learner.manager.conductor,
            compares=learner.manager.compares,
        ),
        caller=Caller(members, meter or RecordedMeter(log), faults=faults),
        recorder=journal,
        new_id=lambda at: str(next(count)),
        limits=limits,
        admission=Admission(learner.guard) if learner.guard else None,
    )


def sample_experiences(learner: Learner, log: RecordedLog, seed: int = 0) -> Iterator[Experience]:
    """Let the learner's policy choose over ``log``, drawing by ``seed``; give each experience once it was learned."""
    journal = MemoryJournal()
    orchestrator = sample_orchestrator(learner, log, journal, seed=seed)
    for i, (decision, _) in enumerate(sample_decisions(learner, orchestrator, log)):
        settled = settle(journal, learner, decision.id, Outcome(decision.at, (int(log.truth[i]),)))
        assert settled.experience is not None, "a fresh decision joins its outcome"
        yield settled.experience


def sample_decisions(
    learner: Learner, orchestrator: Orchestrator, log: RecordedLog
) -> Iterator[tuple[Decision, Answer]]:
    """Answer every request of ``log``, its probe included; give it once the learner has noticed it."""
    for i in range(len(log)):
        request = log.request(i)
        decision, answer = orchestrator.answer(request)
        if decision.probed:
            answer = orchestrator.probe(decision, answer, request)
        learner.notice(decision, answer)
        yield decision, answer


def check_policy(make: MakePolicy) -> None:
    """Assert the rules of ``Policy`` on what ``make`` gives for a catalogue, a contract and the learner's belief.

    Raises ``AssertionError``, which says in a sentence what was broken.
    """
    for rule in POLICY_RULES:
        rule(make)


def _trained(make: MakePolicy, requests: int = 150) -> tuple[Learner, list[State]]:
    log = sample_log(requests)
    learner = sample_learner(make, log)
    return learner, [e.joined.decision.state for e in sample_experiences(learner, log)]


def _its_plans_can_be_read_back_by_name(make: MakePolicy) -> None:
    log = sample_log(150)
    learner = sample_learner(make, log)
    for _ in sample_experiences(learner, log):
        offer = learner.manager.policy.catalogue
        assert len(offer) == len(offer.plans) == len(offer.names) == len(set(offer.names)), "plans and names agree"
        for plan, name in zip(offer.plans, offer.names, strict=True):
            assert parse_plan(name, log.ensemble) == plan, "a plan is what its name says: journals keep the name alone"


def _it_gives_a_distribution_before_and_after_learning(make: MakePolicy) -> None:
    log = sample_log(1)
    new = sample_learner(make, log)
    learner, states = _trained(make)
    for policy, state in (
        (new.manager.policy, new.state.get_state(log.request(0))),
        *((learner.manager.policy, s) for s in states[-20:]),
    ):
        checked_distribution(policy.probabilities(state), len(policy.catalogue), policy.name)


def _it_gives_a_distribution_where_plans_break_a_limit(make: MakePolicy) -> None:
    learner, states = _trained(make)
    policy, rng = learner.manager.policy, np.random.default_rng(0)
    for state in states[-20:]:
        fits = rng.random(len(policy.catalogue)) < 0.3
        fits[rng.integers(len(fits))] = True
        barred = replace(state, fits=tuple(fits.tolist()))
        checked_distribution(policy.probabilities(barred), len(policy.catalogue), policy.name)


def _at_once_it_gives_what_it_gives_one_after_the_other(make: MakePolicy) -> None:
    learner, states = _trained(make)
    each = [learner.manager.distribution(state) for state in states[-20:]]
    together = learner.manager.distributions(states[-20:])
    assert np.array_equal(each, together), "probabilities_each gives probabilities, to the bit"


def _choosing_never_learns(make: MakePolicy) -> None:
    learner, states = _trained(make)
    policy = learner.manager.policy
    before, version, names = policy.probabilities(states[-1]).copy(), policy.version, policy.catalogue.names
    for state in states:
        policy.probabilities(state)
    assert np.array_equal(before, policy.probabilities(states[-1])), "probabilities change only by learning"
    assert policy.version == version, "the version changes only by learning"
    assert policy.catalogue.names == names, "the plans on offer change only by learning"


def _a_new_version_says_that_it_has_changed(make: MakePolicy) -> None:
    log = sample_log(60)
    learner = sample_learner(make, log)
    policy, probe = learner.manager.policy, StateManager(log.ensemble).get_state(log.request(0))
    version, names, before = policy.version, policy.catalogue.names, policy.probabilities(probe).copy()
    for _ in sample_experiences(learner, log):
        now = policy.probabilities(probe).copy()
        same = policy.catalogue.names == names and np.array_equal(now, before)
        assert same or policy.version != version, "other plans or probabilities, another version"
        version, names, before = policy.version, policy.catalogue.names, now


def _it_only_reads_the_belief(make: MakePolicy) -> None:
    log = sample_log(150)
    learner, aside = sample_learner(make, log), sample_learner(make, log)
    policy, belief = aside.manager.policy, aside.state.belief
    before = belief.dump()
    for experience in sample_experiences(learner, log):
        policy.learn(experience)
        policy.probabilities(experience.joined.decision.state)
    assert belief.dump() == before, "the belief is the learner's: a policy reads it and changes nothing"


def _what_it_keeps_makes_another_its_equal(make: MakePolicy) -> None:
    learner, states = _trained(make)
    twin = sample_learner(make, sample_log(150))
    twin.load(learner.dump())
    ours, its = learner.manager.policy, twin.manager.policy
    assert its.version == ours.version, "a restored policy has the version of the one it was dumped from"
    assert its.catalogue.names == ours.catalogue.names, "a restored policy offers the same plans"
    for state in states[-20:]:
        assert np.array_equal(ours.probabilities(state), its.probabilities(state)), "a restored policy chooses alike"
    more = sample_log(30, seed=1)
    chosen, again = ([e.joined.decision.plan for e in sample_experiences(one, more)] for one in (learner, twin))
    assert chosen == again, "a restored policy learns on like the one it was dumped from"


def _probes_without_outcomes_do_it_no_harm(make: MakePolicy) -> None:
    log = sample_log(200)
    learner = sample_learner(make, log, probe_share=0.5)
    policy, belief, probe = learner.manager.policy, learner.state.belief.dump(), StateManager(log.ensemble)
    state = probe.get_state(log.request(0))
    version, names, before = policy.version, policy.catalogue.names, policy.probabilities(state).copy()
    for _ in sample_decisions(learner, sample_orchestrator(learner, log, MemoryJournal()), log):
        now = policy.probabilities(state).copy()
        checked_distribution(now, len(policy.catalogue), policy.name)
        same = policy.catalogue.names == names and np.array_equal(now, before)
        assert same or policy.version != version, "other plans or probabilities, another version"
        version, names, before = policy.version, policy.catalogue.names, now
    assert learner.state.belief.dump() == belief, "what nobody has judged is not believed"
    twin = sample_learner(make, log, probe_share=0.5)
    twin.load(learner.dump())
    more = sample_log(60, seed=1)
    chosen, again = ([e.joined.decision.plan for e in sample_experiences(one, more)] for one in (learner, twin))
    assert chosen == again, "a restored policy goes on with the probes that still wait"


def _it_refuses_what_it_never_kept_and_stays_as_it_was(make: MakePolicy) -> None:
    learner, states = _trained(make)
    policy = learner.manager.policy
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
    here, there = (learner.manager.policy.probabilities(states[-1]) for learner in (one, other))
    assert np.array_equal(here, there), "the same past, the same"


def _a_reward_of_zero_or_one_does_it_no_harm(make: MakePolicy) -> None:
    log = sample_log(40)
    policy = sample_learner(make, log).manager.policy
    for n, experience in enumerate(list(sample_experiences(sample_learner(make, log), log))):
        extreme = replace(experience, own=float(n % 2), reward=replace(experience.reward, value=float(n % 2)))
        policy.learn(replace(extreme, truth=None, correct=np.full_like(experience.correct, np.nan)))
        state = experience.joined.decision.state
        checked_distribution(policy.probabilities(state), len(policy.catalogue), policy.name)


def _an_alarm_about_anything_does_it_no_harm(make: MakePolicy) -> None:
    log = sample_log(80)
    policy = sample_learner(make, log).manager.policy
    names = [*(f"accuracy:{n}" for n in log.ensemble.names), "reward", "accuracy:nobody", "own"]
    for n, experience in enumerate(sample_experiences(sample_learner(make, log), log)):
        alarms = tuple(DriftEvent(name, float(n), "a test") for name in names[: n % (len(names) + 1)])
        policy.learn(replace(experience, alarms=alarms))
        state = experience.joined.decision.state
        checked_distribution(policy.probabilities(state), len(policy.catalogue), policy.name)


def _it_learns_from_decisions_over_other_plans(make: MakePolicy) -> None:
    log = sample_log(60)
    policy = sample_learner(make, log).manager.policy
    strange = Catalogue.of(log.ensemble, generate(log.ensemble, subsets=3, cascades=2, stop_at=(0.55,), limit=16))
    for experience in sample_experiences(sample_learner(make, log, plans=strange), log):
        policy.learn(experience)
        state = experience.joined.decision.state
        checked_distribution(policy.probabilities(state), len(policy.catalogue), policy.name)


POLICY_RULES: tuple[Callable[[MakePolicy], None], ...] = (
    _its_plans_can_be_read_back_by_name,
    _it_gives_a_distribution_before_and_after_learning,
    _it_gives_a_distribution_where_plans_break_a_limit,
    _at_once_it_gives_what_it_gives_one_after_the_other,
    _choosing_never_learns,
    _a_new_version_says_that_it_has_changed,
    _it_only_reads_the_belief,
    _what_it_keeps_makes_another_its_equal,
    _probes_without_outcomes_do_it_no_harm,
    _it_refuses_what_it_never_kept_and_stays_as_it_was,
    _the_same_past_makes_the_same_policy,
    _a_reward_of_zero_or_one_does_it_no_harm,
    _an_alarm_about_anything_does_it_no_harm,
    _it_learns_from_decisions_over_other_plans,
)
