"""The planner finds the plan that is best, sets its thresholds where they earn most, and values it as it would earn."""

from dataclasses import replace
from itertools import combinations, pairwise, permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandmaster.belief import Belief
from bandmaster.contract import Contract, Metric
from bandmaster.core import Ensemble, Evidence, Figures, Plan, Said, class_prior
from bandmaster.counterfactual import evaluate, plan_raw
from bandmaster.estimators import Repetition
from bandmaster.planner import NEVER, THRESHOLDS, Planner, _Bench
from bandmaster.plans import Catalogue

CONTRACT = Contract.of(
    Metric("accuracy", 0.7),
    Metric("confidence", 0.05),
    Metric("latency", 0.1, goal="min", low=0.001, high=1.0, scale="log"),
    Metric("energy", 0.1, goal="min", low=0.001, high=10.0, scale="log"),
    Metric("explainability", 0.05),
)


def figures_of(energy):
    """Declared figures of members that take so many joules."""
    energy = np.asarray(energy, dtype=float)
    return Figures(energy / 10.0, energy, np.zeros(len(energy)), 1.0 / (1.0 + np.arange(len(energy))))


class World:
    """Members that are right so often, sure when right and unsure when wrong, as far as each knows itself."""

    def __init__(self, right, knows, classes=4, energy=None, mix=None):
        self.right, self.knows, self.classes = np.array(right), np.array(knows), classes
        self.figures = figures_of(0.01 * 4.0 ** np.arange(len(right)) if energy is None else energy)
        self.mix = np.full(classes, 1.0 / classes) if mix is None else np.asarray(mix)

    def draw(self, n, seed=0):
        rng = np.random.default_rng(seed)
        truth = rng.choice(self.classes, size=n, p=self.mix)
        size = n, len(self.right)
        right = rng.random(size) < self.right
        label = np.where(right, truth[:, None], (truth[:, None] + rng.integers(1, self.classes, size)) % self.classes)
        telling = rng.random(size) < self.knows
        bucket = np.where(telling, np.where(right, 9, 1), 5)
        return Said(label, bucket), truth

    def learned(self, n, seed=0, planner=None):
        """A belief and a planner that have seen n rows on which all members' answers are known."""
        belief = Belief(len(self.right), self.classes)
        planner = planner or Planner(len(self.right), self.classes)
        said, truth = self.draw(n, seed)
        for i in range(n):
            one = Said(said.label[i : i + 1], said.bucket[i : i + 1])
            belief.learn(one, np.ones((1, len(self.right)), dtype=bool), truth[i : i + 1])
            planner.learn(one, truth[i : i + 1], self.figures)
        return belief, planner


def proposed(world, belief, planner, *, known=(), limit=32, tries=80, seed=0, contract=CONTRACT, mix=None):
    alone = [((m,),) for m in range(len(world.right))]
    mix = world.mix if mix is None else mix
    rng = np.random.default_rng(seed)
    return planner.propose(belief, mix, contract, known, alone, limit=limit, tries=tries, rng=rng)


def bench_of(world, belief, planner, contract=CONTRACT, seed=0, guessed=(), repeats=NEVER):
    return planner._bench(belief, world.mix, contract, guessed, np.random.default_rng(seed), repeats)


def value(bench, chain):
    return bench.values([chain])[chain]


def stages_of(bench, chain):
    """What stopping after each stage would earn, and how sure the answer is then."""
    value(bench, chain)
    runs = [chain[: j + 1] for j in range(len(chain))]
    heard = [bench._heard[tuple(sorted(m for stage in run for m in stage))] for run in runs]
    return [bench._earned([run])[0] for run in runs], [h.sure for h in heard]


def every_chain(members):
    """Every plan over so many members that the planner may propose."""
    found = set()
    for size in range(1, members + 1):
        for chosen in permutations(range(members), size):
            for cuts in (c for k in range(size) for c in combinations(range(1, size), k)):
                edges = [0, *cuts, size]
                stages = tuple(tuple(sorted(chosen[a:b])) for a, b in pairwise(edges))
                if len(stages) <= Planner.STAGES and max(map(len, stages)) <= Planner.TOGETHER:
                    found.add(stages)
    return sorted(found)


CASCADE = World(right=[0.8, 0.96, 0.5], knows=[0.95, 0.5, 0.0], energy=[0.01, 2.0, 0.5])
"""The cheap member knows when it is wrong, the dear one is nearly always right, the third is no good."""


# ---- Searching ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_where_a_cheap_member_knows_when_it_is_wrong_it_goes_first_and_the_good_one_second(seed):
    belief, planner = CASCADE.learned(400, seed)
    best = proposed(CASCADE, belief, planner, seed=seed).plans[0]
    assert best.chain[:2] == ((0,), (1,))
    fresh = CASCADE.learned(4000, seed + 10, Planner(3, 4))
    bench = bench_of(CASCADE, *fresh)
    alone = max(value(bench, ((m,),)).mean for m in range(3))
    assert value(bench, best.chain).mean > alone + 0.03


@pytest.mark.parametrize("seed", range(6))
def test_of_all_plans_there_are_it_finds_one_as_good_as_the_best(seed):
    rng = np.random.default_rng(seed)
    world = World(rng.uniform(0.4, 0.95, 4), rng.uniform(0.0, 1.0, 4), energy=rng.permutation(4.0 ** np.arange(-3, 1)))
    belief, planner = world.learned(200, seed)
    bench = bench_of(world, belief, planner)
    best = max(value(bench, chain).mean for chain in every_chain(4))
    found = proposed(world, belief, planner, seed=seed).plans[0].mean
    assert best - 0.002 <= found <= best + 1e-12  # of 148 plans about 80 are tried


def test_more_tries_are_never_for_the_worse():
    world = World([0.6, 0.7, 0.8, 0.85, 0.9], [0.9, 0.3, 0.6, 0.2, 0.5])
    belief, planner = world.learned(150)
    means = [proposed(world, belief, planner, tries=tries).plans[0].mean for tries in (0, 40, 80, 400)]
    assert means == sorted(means)
    assert means[-1] > means[0]


@given(st.integers(0, 50), st.integers(1, 30), st.lists(st.sampled_from(every_chain(3)), max_size=5))
@settings(max_examples=40, deadline=None)
def test_proposals_are_well_formed(seed, limit, known):
    belief, planner = CASCADE.learned(40, seed)
    proposal = proposed(CASCADE, belief, planner, known=known, limit=max(limit, 3), tries=40, seed=seed)
    plans = proposal.plans
    assert 3 <= len(plans) <= max(limit, 3)
    assert {((m,),) for m in range(3)} <= {v.chain for v in plans}, "what stands is always among them"
    assert len({v.chain for v in plans}) == len(plans)
    assert [v.mean for v in plans] == sorted((v.mean for v in plans), reverse=True)
    for v in plans:
        members = [m for stage in v.chain for m in stage]
        assert len(set(members)) == len(members)
        assert set(members) <= {0, 1, 2}
        assert len(v.chain) <= Planner.STAGES
        assert len(v.stop_at) == len(v.chain) - 1
        assert all(0.0 < t <= 1.0 for t in v.stop_at)
    assert proposal.by_class.shape == (len(plans), 4)
    assert ((proposal.by_class >= 0.0) & (proposal.by_class <= 1.0)).all()
    assert (proposal.doubt >= 0.0).all()
    assert proposal.doubt[[v.chain for v in plans].index(((0,),))] == pytest.approx(0.0, abs=1e-12)


def test_the_same_past_and_seed_propose_the_same():
    one, other = (proposed(CASCADE, *CASCADE.learned(120), seed=3) for _ in range(2))
    assert [v.chain for v in one.plans] == [v.chain for v in other.plans]
    np.testing.assert_array_equal(one.by_class, other.by_class)


def test_with_too_few_rows_nothing_is_proposed():
    belief, planner = CASCADE.learned(Planner.ENOUGH - 1)
    assert proposed(CASCADE, belief, planner) is None


def test_the_doubt_is_as_large_as_a_plans_advantage_really_strays():
    chain, advantages, doubts = ((0,), (1,)), [], []
    for seed in range(60):
        bench = bench_of(CASCADE, *CASCADE.learned(150, seed))
        plan, other = value(bench, chain), value(bench, ((1,),))
        advantages.append(plan.mean - other.mean)
        doubts.append(bench.errors((plan.rewards - other.rewards)[None])[0])
    # The deviation of 60 figures strays by a tenth; choosing thresholds on the same rows adds to it.
    assert 0.7 < np.std(advantages) / np.mean(doubts) < 1.5


# ---- Values ------------------------------------------------------------------------------------------------------


def test_two_stages_stop_at_the_threshold_that_earns_most():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        world = World(rng.uniform(0.4, 0.95, 2), rng.uniform(0.0, 1.0, 2), energy=rng.permutation([0.01, 1.0]))
        bench = bench_of(world, *world.learned(80, seed))
        (first, last), (sure, _) = stages_of(bench, ((0,), (1,)))
        earned = [bench.weight @ np.where(sure >= t, first, last) for t in THRESHOLDS]
        assert value(bench, ((0,), (1,))).mean == pytest.approx(max(earned), abs=1e-12)


def test_three_stages_stop_where_no_thresholds_earn_noticeably_more():
    short = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        world = World(rng.uniform(0.4, 0.95, 3), rng.uniform(0.0, 1.0, 3), energy=rng.permutation([0.01, 0.1, 1.0]))
        bench = bench_of(world, *world.learned(80, seed))
        chain = ((0,), (1,), (2,))
        (first, second, last), (sure, surer, _) = stages_of(bench, chain)
        best = max(
            bench.weight @ np.where(sure >= s, first, np.where(surer >= t, second, last))
            for s, t in product(THRESHOLDS, THRESHOLDS)
        )
        short.append(best - value(bench, chain).mean)
    assert min(short) > -1e-12
    assert max(short) < 0.01  # one threshold at a time may end beside the best pair
    assert np.mean(short) < 0.001


chains = st.lists(st.integers(0, 3), unique=True, min_size=1, max_size=4).flatmap(
    lambda members: st.lists(st.booleans(), min_size=len(members) - 1, max_size=len(members) - 1).map(
        lambda joined: _staged(members, joined)
    )
)


def _staged(members, joined):
    stages = [[members[0]]]
    for m, together in zip(members[1:], joined, strict=True):
        stages[-1].append(m) if together else stages.append([m])
    return tuple(tuple(sorted(s)) for s in stages)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(chains, min_size=1, max_size=4), st.floats(0.0, 1.0))
def test_a_plan_is_worth_what_walking_it_would_have_earned(seed, drawn, overlap):
    rng = np.random.default_rng(seed)
    world = World(rng.uniform(0.3, 0.95, 4), rng.uniform(0.0, 1.0, 4), mix=rng.dirichlet(np.ones(4)))
    belief, planner = world.learned(25, seed)
    belief.overlap = overlap
    rows = [  # what members take, and the newest label, differ from request to request
        replace(
            r,
            figures=figures_of(rng.uniform(0.01, 2.0, 4)),
            newest=int(rng.integers(-1, 4)),
            since=int(rng.integers(1, 99)),
        )
        for r in planner.rows
    ]
    planner.rows.clear()
    planner.rows.extend(rows)
    repeats = rng.uniform(0.0, 0.9, len(NEVER))
    bench = bench_of(world, belief, planner, repeats=repeats)
    valued = [value(bench, chain) for chain in dict.fromkeys(drawn)]
    ensemble = Ensemble(("m0", "m1", "m2", "m3"), tuple(range(4)))
    plans = [Plan(tuple(tuple(f"m{m}" for m in s) for s in v.chain), "learned", v.stop_at) for v in valued]
    catalogue = Catalogue.of(ensemble, plans)
    for i, row in enumerate(planner.rows):
        prior = np.log(class_prior(world.mix, repeats[Repetition.lag(row.since)], row.newest))
        evidence = Evidence(bench.evidence.log_likelihood[i : i + 1], prior, bench.evidence.overlap)
        # Learned weights look at the evidence alone, whatever the scores.
        walked = evaluate(catalogue, rng.dirichlet(np.ones(4), (1, 4)), np.ones((1, 4), bool), np.ones(4), evidence)
        right = (walked.labels[0] == row.truth).astype(float)
        rewards = CONTRACT.rewards(plan_raw(catalogue, walked, right, row.figures, np.ones(4), CONTRACT.counts))
        np.testing.assert_allclose([v.rewards[i] for v in valued], rewards, atol=1e-9)
    for v in valued:
        assert v.mean == pytest.approx(bench.weight @ v.rewards)
    assert bench.weight.sum() == pytest.approx(1.0)


def test_a_plans_worth_follows_the_mix_of_classes_at_once():
    # Member 0 is right on the first two classes alone.
    rng, world = np.random.default_rng(0), World([0.95, 0.7], [0.0, 0.0], energy=[0.01, 0.01])
    belief, planner = Belief(2, 4), Planner(2, 4)
    said, truth = world.draw(400)
    label = said.label.copy()
    label[truth >= 2, 0] = rng.integers(0, 2, (truth >= 2).sum())
    for i in range(400):
        one = Said(label[i : i + 1], said.bucket[i : i + 1])
        belief.learn(one, np.ones((1, 2), dtype=bool), truth[i : i + 1])
        planner.learn(one, truth[i : i + 1], world.figures)
    low, high = np.array([0.49, 0.49, 0.01, 0.01]), np.array([0.01, 0.01, 0.49, 0.49])
    here, there = (proposed(world, belief, planner, tries=0, mix=mix).plans[0].chain for mix in (low, high))
    assert (here, there) == (((0,),), ((1,),))
    proposal = proposed(world, belief, planner, tries=0)
    zero = [v.chain for v in proposal.plans].index(((0,),))
    assert proposal.by_class[zero, :2].min() > proposal.by_class[zero, 2:].max() + 0.5


# ---- Forgetting --------------------------------------------------------------------------------------------------


def test_what_a_forgotten_member_said_is_drawn_anew_from_what_is_believed_now():
    world = World([0.9, 0.8], [0.5, 0.5], energy=[0.01, 0.02])
    belief, planner = world.learned(300)
    planner.forget(np.array([True, False]))
    said, truth = world.draw(100, 9)  # it is always wrong by now
    belief.relearn(0, Said((said.label[:, 0] + 1) % 4, said.bucket[:, 0]), truth)
    bench = bench_of(world, belief, planner)
    kept = np.array([r.label for r in planner.rows])
    rng = np.random.default_rng(0)
    again = planner._bench(belief, world.mix, CONTRACT, (), rng)
    np.testing.assert_array_equal(bench.evidence.log_likelihood, again.evidence.log_likelihood)  # the same draws
    untouched = belief.log_likelihood(Said(kept, np.array([r.bucket for r in planner.rows])))[:, 1]
    found = bench.evidence.log_likelihood[:, 1]
    np.testing.assert_array_equal(
        np.delete(found, 0, 1)[truth_of(planner) == 0], np.delete(untouched, 0, 1)[truth_of(planner) == 0]
    )
    fresh = value(bench, ((0,),)).rewards.mean()
    old = value(bench_of(world, *world.learned(300)), ((0,),)).rewards.mean()
    assert fresh < old - 0.1
    np.testing.assert_array_equal([r.label for r in planner.rows], kept)  # what was seen stays what it was


def truth_of(planner):
    return np.array([r.truth for r in planner.rows])


class Short(Planner):
    KEEP = 20


def test_rows_of_after_the_change_are_taken_as_they_are():
    world = World([0.9, 0.8], [0.5, 0.5])
    belief, planner = world.learned(20, planner=Short(2, 4))
    planner.forget(np.array([True, False]))
    assert planner._before.tolist() == [20, 0]
    planner.forget(np.array([False, False]))
    assert planner._before.tolist() == [20, 0]
    world.learned(15, seed=1, planner=planner)
    assert planner._before.tolist() == [5, 0]
    assert len(planner.rows) == 20
    kept = Said(np.array([r.label for r in planner.rows]), np.array([r.bucket for r in planner.rows]))
    bench = bench_of(world, belief, planner)
    told = belief.leave_out(belief.log_likelihood(kept), kept, truth_of(planner))
    np.testing.assert_array_equal(bench.evidence.log_likelihood[5:], told[5:])
    world.learned(10, seed=2, planner=planner)
    assert planner._before.tolist() == [0, 0]


# ---- Keeping -----------------------------------------------------------------------------------------------------


def test_what_is_kept_makes_another_its_equal():
    belief, planner = CASCADE.learned(200)
    planner.forget(np.array([False, True, False]))
    CASCADE.learned(30, seed=5, planner=planner)
    twin = Planner(3, 4)
    twin.load(planner.dump())
    for _ in range(2):
        one, other = (proposed(CASCADE, belief, p, seed=1) for p in (planner, twin))
        assert [(v.chain, v.stop_at) for v in one.plans] == [(v.chain, v.stop_at) for v in other.plans]
        np.testing.assert_array_equal(one.by_class, other.by_class)
        np.testing.assert_array_equal(one.doubt, other.doubt)
        for p in (planner, twin):
            CASCADE.learned(20, seed=6, planner=p)
    assert twin.dump() == planner.dump()


def test_nothing_seen_can_be_kept_too():
    twin = Planner(3, 4)
    twin.load(Planner(3, 4).dump())
    assert len(twin.rows) == 0


def test_what_it_never_kept_is_refused_and_leaves_it_as_it_was():
    _, planner = CASCADE.learned(30)
    before = planner.dump()
    more = World([0.5] * 4, [0.5] * 4).learned(30)[1].dump()
    classes = World([0.5] * 3, [0.5] * 3, classes=9).learned(30)[1].dump()
    for garbage in (b"", b"garbage", before[:-7], more, classes):
        with pytest.raises(ValueError, match=r"\w+"):
            planner.load(garbage)
        assert planner.dump() == before


def test_no_more_than_the_last_rows_are_kept():
    world = World([0.9, 0.8], [0.5, 0.5])
    _, planner = world.learned(50, planner=Short(2, 4))
    assert len(planner.rows) == 20
    assert [r.truth for r in planner.rows] == world.draw(50)[1][-20:].tolist()


def test_a_bench_values_without_ever_changing_what_it_was_given():
    belief, planner = CASCADE.learned(50)
    before, kept = belief.dump(), planner.dump()
    assert isinstance(bench_of(CASCADE, belief, planner), _Bench)
    proposed(CASCADE, belief, planner)
    assert (belief.dump(), planner.dump()) == (before, kept)


def test_a_row_that_stands_for_three_counts_as_three_such_rows():
    world = World([0.9, 0.6], [0.8, 0.5])
    said, truth = world.draw(40)
    thrice, weighed = Planner(2, 4), Planner(2, 4)
    for i in range(40):
        one, label = Said(said.label[i : i + 1], said.bucket[i : i + 1]), truth[i : i + 1]
        times = 3 if i % 4 else 1
        weighed.learn(one, label, world.figures, stands=float(times))
        for _ in range(times):
            thrice.learn(one, label, world.figures)
    belief = world.learned(200)[0]
    restored = Planner(2, 4)
    restored.load(weighed.dump())
    means = []
    for planner in (thrice, weighed, restored):
        proposal = planner.propose(
            belief, world.mix, CONTRACT, [((0,), (1,))], [((0,),), ((1,),)], limit=3, tries=0,
            rng=np.random.default_rng(0),
        )  # fmt: skip
        means.append({v.chain: v.mean for v in proposal.plans})
    assert means[1] == means[2]
    assert means[0].keys() == means[1].keys()
    # Classes with few rows are drawn to the others, and 40 rows are fewer than 100: that is all that differs.
    assert [means[0][c] for c in means[0]] == pytest.approx([means[1][c] for c in means[0]], abs=0.01)


def test_where_labels_repeat_a_poor_members_plan_is_worth_what_the_newest_label_makes_of_it():
    # Both members guess; nine requests in ten are of the class that was the newest then.
    rng, world = np.random.default_rng(0), World([0.3, 0.3], [0.0, 0.0])
    belief, planner = Belief(2, 4), Planner(2, 4)
    said, truth = world.draw(500)
    newest = np.where(rng.random(500) < 0.87, truth, rng.integers(0, 4, 500))
    for i in range(500):
        one, label = Said(said.label[i : i + 1], said.bucket[i : i + 1]), truth[i : i + 1]
        belief.learn(one, np.ones((1, 2), dtype=bool), label)
        planner.learn(one, label, world.figures, newest=int(newest[i]))
    restored = Planner(2, 4)
    restored.load(planner.dump())
    right = Contract((Metric("accuracy", 1.0),))
    told, untold = (
        value(bench_of(world, belief, p, right, repeats=np.full(len(NEVER), r)), ((0,),)).mean
        for p, r in ((planner, 0.87), (planner, 0.0))
    )
    assert told > 0.85
    assert untold < 0.4
    assert told == value(bench_of(world, belief, restored, right, repeats=np.full(len(NEVER), 0.87)), ((0,),)).mean
