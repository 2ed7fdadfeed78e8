"""What is believed of the members: proper distributions, learned in any order, right on ensembles that are known."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from bandmaster.belief import BUCKETS, DENSE, Belief
from bandmaster.combine import posterior
from bandmaster.core import CONFIDENCE_EDGES as EDGES
from bandmaster.core import Evidence, Said

MANY = DENSE + 40
"""More classes than every pair is learned of."""


class World:
    """Members that are independent given the class: each is right as often as its class lets it, surer then."""

    def __init__(self, members, classes, seed=0, abstain=0.05, right=(0.4, 0.95)):
        rng = np.random.default_rng(seed)
        instead = rng.dirichlet(np.ones(classes), size=(members, classes))
        recall = rng.uniform(*right, size=(members, classes))
        instead[:, np.arange(classes), np.arange(classes)] = 0.0
        instead *= ((1.0 - recall) / instead.sum(axis=2))[..., None]
        instead[:, np.arange(classes), np.arange(classes)] = recall
        abstained = np.full((members, classes, 1), abstain)
        self.says = np.concatenate([instead * (1.0 - abstain), abstained], axis=2)  # (M, true, said)
        self.sure = (
            rng.dirichlet(np.linspace(0.5, 3.0, BUCKETS), size=members),
            rng.dirichlet(np.linspace(3.0, 0.5, BUCKETS), size=members),
        )
        self.mix = rng.dirichlet(np.full(classes, 5.0))
        self.members, self.classes = members, classes

    def draw(self, n, seed=0):
        """What all members said to n rows, and the labels."""
        rng = np.random.default_rng(seed)
        truth = rng.choice(self.classes, size=n, p=self.mix)
        upto = self.says[:, truth].cumsum(axis=2)  # (M, n, C + 1)
        label = (rng.random((self.members, n, 1)) > upto).sum(axis=2).clip(max=self.classes)
        of = np.where((label == truth)[..., None], self.sure[0][:, None], self.sure[1][:, None]).cumsum(axis=2)
        bucket = (rng.random((self.members, n, 1)) > of).sum(axis=2).clip(max=BUCKETS - 1)
        return Said(label.T, np.where(label == self.classes, 0, bucket).T), truth

    def posterior(self, said):
        """Bayes' own, (n, C)."""
        every, classes = np.arange(self.members), np.arange(self.classes)
        likely = self.says[every[None, :, None], classes, said.label[..., None]]
        right = self.sure[0][every, said.bucket][..., None]
        wrong = np.where(said.label == self.classes, 1.0, self.sure[1][every, said.bucket])[..., None]
        likely = likely * np.where(said.label[..., None] == classes, right, wrong)
        joint = likely.prod(axis=1) * self.mix
        return joint / joint.sum(axis=1, keepdims=True)


def taught(said, truth, members, classes, known=None):
    belief = Belief(members, classes)
    known = np.ones(said.label.shape, dtype=bool) if known is None else known
    for i in range(len(truth)):
        row = slice(i, i + 1)
        belief.learn(Said(said.label[row], said.bucket[row]), known[row], truth[row])
    return belief


def everything_that_can_be_said(classes, members):
    """Every class with every bucket, and an abstention: all members say the same in a row."""
    pairs = [*itertools.product(range(classes), range(BUCKETS)), (classes, 0)]
    label, bucket = (np.repeat(np.array(column)[:, None], members, axis=1) for column in zip(*pairs, strict=True))
    return Said(label, bucket)


outcomes = st.lists(
    st.tuples(
        st.lists(st.integers(0, 3), min_size=2, max_size=2),
        st.lists(st.integers(0, BUCKETS - 1), min_size=2, max_size=2),
        st.lists(st.booleans(), min_size=2, max_size=2),
        st.integers(0, 2),
    ),
    max_size=60,
)
"""What two members said of three classes, 3 for an abstention; how sure; of whom it is known; the label."""


def of(drawn):
    label, bucket, known, truth = (np.array(c) for c in zip(*drawn, strict=True)) if drawn else [np.zeros((0, 2))] * 4
    return Said(label.astype(int), bucket.astype(int)), truth.astype(int), known.astype(bool)


# ---- Distributions -----------------------------------------------------------------------------------------------


@given(outcomes)
def test_for_every_class_what_may_be_said_is_a_distribution(drawn):
    said, truth, known = of(drawn)
    belief = taught(said, truth, 2, 3, known)
    likely = np.exp(belief.log_likelihood(everything_that_can_be_said(3, 2)))
    assert (likely > 0.0).all()
    np.testing.assert_allclose(likely.sum(axis=0), 1.0, atol=1e-9)


def test_with_very_many_classes_it_is_one_but_for_the_share_of_the_class_itself():
    world = World(2, MANY)
    belief = taught(*world.draw(600), 2, MANY)
    total = np.exp(belief.log_likelihood(everything_that_can_be_said(MANY, 2))).sum(axis=0)
    # Documented: what is said instead is learned for each class alone, so that the class itself is among it.
    assert (total <= 1.0 + 1e-9).all()
    assert (total >= 1.0 - belief._instead - 1e-9).all()
    assert total.mean() > 0.98


def test_how_sure_an_abstention_was_says_nothing():
    belief = taught(*World(2, 3).draw(100), 2, 3)
    abstained = np.full((BUCKETS, 2), 3)
    likely = belief.log_likelihood(Said(abstained, np.arange(BUCKETS)[:, None].repeat(2, axis=1)))
    assert (likely == likely[0]).all()


def test_what_was_said_is_the_likeliest_class_and_its_bucket_or_an_abstention():
    scores = np.array([[[0.2, 0.8], [0.0, 0.0], [0.5, 0.5], [1.0, 0.0]]])
    said = Said.of(scores)
    assert said.label.tolist() == [[1, 2, 0, 0]]
    assert said.bucket[0, [0, 2, 3]].tolist() == [(EDGES <= 0.8).sum(), (EDGES <= 0.5).sum(), len(EDGES)]


def test_who_has_been_seen_to_do_nothing_is_taken_to_be_right_rather_than_wrong():
    belief = Belief(1, 4)
    likely = belief.log_likelihood(Said(np.array([[2]]), np.array([[5]])))[0, 0]
    assert likely.argmax() == 2
    assert np.ptp(np.delete(likely, 2)) < 1e-12


# ---- Learning ----------------------------------------------------------------------------------------------------


@given(outcomes, st.randoms(use_true_random=False))
def test_the_order_of_outcomes_does_not_matter(drawn, random):
    said, truth, known = of(drawn)
    order = list(range(len(truth)))
    random.shuffle(order)
    one = taught(said, truth, 2, 3, known)
    other = taught(Said(said.label[order], said.bucket[order]), truth[order], 2, 3, known[order])
    one._renew()  # the pools are renewed now and then only
    other._renew()
    everything = everything_that_can_be_said(3, 2)
    np.testing.assert_array_equal(one.log_likelihood(everything), other.log_likelihood(everything))
    assert one.learned == other.learned == len(truth)


@given(outcomes)
def test_renewing_what_an_outcome_touches_is_as_good_as_renewing_everything(drawn):
    said, truth, known = of(drawn)
    belief = taught(said, truth, 2, 3, known)
    everything = everything_that_can_be_said(3, 2)
    before = belief.log_likelihood(everything)
    belief._tables()
    np.testing.assert_allclose(belief.log_likelihood(everything), before, atol=1e-12)


@pytest.mark.parametrize("classes", [3, MANY])
def test_several_rows_at_once_are_as_good_as_one_after_the_other(classes):
    said, truth = World(3, classes).draw(400)
    one, other = taught(said, truth, 3, classes), Belief(3, classes)
    other.learn(said, np.ones(said.label.shape, dtype=bool), truth)
    one._renew()
    np.testing.assert_allclose(one.log_likelihood(said), other.log_likelihood(said), atol=1e-12)


def test_of_whom_nothing_is_known_nothing_is_learned():
    said, truth = World(2, 3).draw(200)
    known = np.tile([True, False], (200, 1))
    belief = taught(said, truth, 2, 3, known)
    everything = everything_that_can_be_said(3, 2)
    np.testing.assert_array_equal(
        belief.log_likelihood(everything)[:, 1], Belief(2, 3).log_likelihood(everything)[:, 1]
    )


@pytest.mark.parametrize("seed", range(3))
def test_after_thousands_of_outcomes_the_posterior_is_nearly_bayes_own_and_calibrated(seed):
    world = World(4, 5, seed)
    belief = taught(*world.draw(6000, seed), 4, 5)
    said, truth = world.draw(8000, seed + 100)
    evidence = Evidence(belief.log_likelihood(said), np.log(world.mix), overlap=0.0)
    found = posterior(evidence, np.ones((1, 4), dtype=bool))[:, 0]
    best = world.posterior(said)
    assert np.abs(found - best).sum(axis=1).mean() / 2 < 0.03  # total variation; when written .011 to .016
    right = found.argmax(axis=1) == truth
    assert right.mean() > (best.argmax(axis=1) == truth).mean() - 0.01
    # Were the posterior exact, the mean of 8,000 would stray by less than .0045·5 but once in two million.
    sure = found.max(axis=1)
    assert abs(right.mean() - sure.mean()) < 5 * np.sqrt((sure * (1 - sure)).sum()) / len(sure)
    for low, high in itertools.pairwise([0.4, 0.6, 0.8, 0.9, 0.97, 1.0]):
        here = (sure >= low) & (sure < high)
        n, spread = here.sum(), np.sqrt((sure[here] * (1 - sure[here])).sum())
        assert abs((right[here] - sure[here]).sum()) < 5 * spread + 0.02 * n  # .02 for having seen but 6,000


def test_a_hundred_outcomes_make_better_posteriors_than_a_vote():
    hits, votes = [], []
    for seed in range(10):
        world = World(5, 4, seed)
        belief = taught(*world.draw(100, seed), 5, 4)
        said, truth = world.draw(2000, seed + 50)
        evidence = Evidence(belief.log_likelihood(said), np.full(4, -np.log(4)), overlap=0.0)
        found = posterior(evidence, np.ones((1, 5), dtype=bool))[:, 0].argmax(axis=1)
        counted = (said.label[..., None] == np.arange(4)).sum(axis=1)
        hits.append((found == truth).mean())
        votes.append((counted.argmax(axis=1) == truth).mean())
    assert min(np.subtract(hits, votes)) > 0.0  # seeds are fixed; when written .02 to .10


def test_with_very_many_classes_the_answer_is_right_where_members_are():
    world = World(4, MANY, right=(0.3, 0.9))
    belief = taught(*world.draw(4000), 4, MANY)
    said, truth = world.draw(2000, 1)
    evidence = Evidence(belief.log_likelihood(said), np.log(world.mix), overlap=0.0)
    found = posterior(evidence, np.ones((1, 4), dtype=bool))[:, 0]
    alone = (said.label == truth[:, None]).mean(axis=0)
    assert (found.argmax(axis=1) == truth).mean() > alone.max() + 0.1
    assert abs((found.argmax(axis=1) == truth).mean() - found.max(axis=1).mean()) < 0.1


# ---- Changing ----------------------------------------------------------------------------------------------------


def alone(said, member):
    return Said(said.label[:, member], said.bucket[:, member])


def trust(belief):
    """By how much the first member's saying the first class speaks for it."""
    says = belief.log_likelihood(Said(np.zeros((1, 2), dtype=int), np.full((1, 2), 5)))[0, 0]
    return says[0] - says[1:].max()


def test_a_member_that_changed_is_learned_from_what_it_did_since_and_others_stay_as_they_were():
    world, classes = World(2, 3, right=(0.9, 0.95), abstain=0.0), 3
    belief, as_before = (taught(*world.draw(2000), 2, classes) for _ in range(2))
    as_before._renew()
    now, true = world.draw(40, 7)  # it is wrong from now on, and as sure as ever
    belief.relearn(0, alone(Said((now.label + 1) % classes, now.bucket), 0), true)
    everything = everything_that_can_be_said(classes, 2)
    np.testing.assert_array_equal(belief.log_likelihood(everything)[:, 1], as_before.log_likelihood(everything)[:, 1])
    assert trust(belief) < 0.0 < trust(as_before)
    fresh = Belief(2, classes)
    for i in range(40):
        one = Said((now.label[i : i + 1] + 1) % classes, now.bucket[i : i + 1])
        fresh.learn(one, np.array([[True, False]]), true[i : i + 1])
    np.testing.assert_array_equal(belief._seen[0], fresh._seen[0])


def test_a_regime_that_returns_is_known_at_once_and_a_new_one_is_not_taken_for_it():
    world, classes = World(2, 3, right=(0.9, 0.95), abstain=0.0), 3
    belief = taught(*world.draw(2000), 2, classes)
    known = belief._seen[0].sum()
    broken, true = world.draw(30, 7)
    belief.relearn(0, alone(Said((broken.label + 1) % classes, broken.bucket), 0), true)
    assert belief._seen[0].sum() == 30
    well, true = world.draw(8, 8)
    belief.relearn(0, alone(well, 0), true)
    assert belief._seen[0].sum() == known + 8
    _, true = world.draw(30, 9)
    belief.relearn(0, Said(np.full(30, classes), np.zeros(30, dtype=int)), true)  # it only abstains
    assert belief._seen[0].sum() == 30
    assert len(belief._shelf[0]) == belief.SHELF
    assert belief._shelf[1] == []


@pytest.mark.parametrize("classes", [3, MANY])
def test_by_what_a_member_says_now_its_former_regimes_are_likelier_or_less_likely_than_its_present_one(classes):
    belief = taught(*World(2, classes, right=(0.9, 0.95), abstain=0.0).draw(3000), 2, classes)
    of, labels = np.arange(3), np.arange(60) % 3
    assert belief.likelier(0, of, of).shape == (0, 3)
    for wrong in (1, 2):  # it takes every class for the next one, then for the one after that
        belief.relearn(0, Said((labels + wrong) % 3, np.full(60, 5)), labels)
    good, next_one = 0, 1
    assert (belief.likelier(0, of, of)[good] > 1.0).all()
    assert (belief.likelier(0, (of + 2) % 3, of)[good] < -1.0).all()
    if classes <= DENSE:  # beyond, which class it takes for which is not known
        assert (belief.likelier(0, (of + 2) % 3, of)[next_one] < -1.0).all()
        assert (belief.likelier(0, (of + 1) % 3, of)[next_one] > 1.0).all()
    assert belief.likelier(1, of, of).shape == (0, 3)


@settings(max_examples=30)
@given(st.integers(1, 60))
def test_what_a_member_may_say_stays_a_distribution_when_it_has_changed(rows):
    said, truth = World(2, 3).draw(60)
    belief = taught(said, truth, 2, 3)
    belief.relearn(1, Said(said.label[:rows, 1], said.bucket[:rows, 1]), truth[:rows])
    assert belief._seen[1].sum() == rows
    likely = np.exp(belief.log_likelihood(everything_that_can_be_said(3, 2)))
    np.testing.assert_allclose(likely.sum(axis=0), 1.0, atol=1e-9)


# ---- Without its own outcome -------------------------------------------------------------------------------------


@given(outcomes.filter(lambda drawn: len(drawn) > 1))
def test_leaving_an_outcome_out_is_as_if_it_had_not_been_learned_in_the_confusion_with_its_own_class(drawn):
    said, truth, _ = of(drawn)
    rows = len(truth)
    last, every = Said(said.label[-1:], said.bucket[-1:]), np.ones((1, 2), dtype=bool)
    without = taught(Said(said.label[:-1], said.bucket[:-1]), truth[:-1], 2, 3)
    without._renew()  # renews the pools, so that the next outcome does not
    learned = Belief(2, 3)
    learned.load(without.dump())
    learned.RENEW, learned._renewed = rows + 1, rows  # not even now: pools differ by one outcome of all
    learned.learn(last, every, truth[-1:])
    found = learned.leave_out(learned.log_likelihood(last), last, truth[-1:])[0]
    wanted, have = without.log_likelihood(last)[0], learned.log_likelihood(last)[0]
    own = int(truth[-1])
    others = [c for c in range(3) if c != own]
    np.testing.assert_array_equal(found[:, others], have[:, others])
    # How sure it was still counts, as documented: no more than one outcome among at least five.
    assert (np.abs(found[:, own] - wanted[:, own]) <= np.log(1.0 + 1.0 / (Belief.SHRINK_BUCKETS * 1e-3))).all()
    sure = _log_sure(learned, last, own) - _log_sure(without, last, own)
    np.testing.assert_allclose(found[:, own] - sure, wanted[:, own], atol=1e-9)


def _log_sure(belief, said, true):
    """log P(how sure | right or wrong) of each member to one row of class ``true``, 0 for an abstention."""
    found = []
    for m, (label, bucket) in enumerate(zip(said.label[0], said.bucket[0], strict=True)):
        if label == belief.classes:
            found.append(0.0)
        else:
            found.append(belief._log_sure[0 if label == true else 1][m, bucket, label])
    return np.array(found)


def test_what_was_learned_from_looks_better_than_it_is_and_leaving_it_out_puts_that_right():
    world = World(4, 30, right=(0.3, 0.8))
    said, truth = world.draw(300)
    belief = taught(said, truth, 4, 30)
    fresh, labels = world.draw(4000, 1)
    own = np.arange(len(truth)), slice(None), truth
    told = belief.log_likelihood(said)[own].mean()
    corrected = belief.leave_out(belief.log_likelihood(said), said, truth)[own].mean()
    really = belief.log_likelihood(fresh)[np.arange(4000), :, labels].mean()
    assert told > really + 0.1
    assert abs(corrected - really) < (told - really) / 2  # seeds are fixed


def test_with_very_many_classes_nothing_is_left_out():
    world = World(2, MANY)
    said, truth = world.draw(50)
    belief = taught(said, truth, 2, MANY)
    likely = belief.log_likelihood(said)
    assert belief.leave_out(likely, said, truth) is likely


@pytest.mark.parametrize("classes", [4, MANY])
@pytest.mark.parametrize("true", [0, 2])
def test_what_is_drawn_in_a_members_place_follows_its_likelihood(classes, true):
    world = World(2, classes, right=(0.2, 0.9))
    belief = taught(*world.draw(3000), 2, classes)
    n = 20_000
    label, bucket = belief.resample(1, np.full(n, true), np.random.default_rng(0))
    assert (bucket[label == classes] == 0).all()
    everything = everything_that_can_be_said(classes, 2)
    p = np.exp(belief.log_likelihood(everything)[:, 1, true])
    p /= p.sum()  # with very many classes it sums to a little less
    at = label * BUCKETS + bucket
    drawn = np.bincount(at, minlength=classes * BUCKETS + 1)
    frequent = p * n >= 20
    expected = np.append(p[frequent], max(1.0 - p[frequent].sum(), 0.0)) * n
    seen = np.append(drawn[frequent], n - drawn[frequent].sum())
    if expected[-1] < 20:
        expected, seen = expected[:-1] * seen[:-1].sum() / expected[:-1].sum(), seen[:-1]
    assert chisquare(seen, expected * seen.sum() / expected.sum()).pvalue > 1e-6  # false alarm: one in a million


# ---- Keeping -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [3, MANY])
def test_what_is_kept_makes_another_its_equal_and_it_learns_on_alike(classes):
    world = World(3, classes)
    said, truth = world.draw(500)
    belief, twin = taught(said, truth, 3, classes), Belief(3, classes)
    belief.relearn(1, Said(said.label[:20, 1], said.bucket[:20, 1]), truth[:20])
    belief.learn(said, np.ones(said.label.shape, dtype=bool), truth)
    belief.overlap = 0.3
    twin.load(belief.dump())
    more, labels = world.draw(80, 1)
    for i in range(80):
        np.testing.assert_array_equal(belief.log_likelihood(more), twin.log_likelihood(more))
        for b in (belief, twin):
            b.learn(Said(more.label[i : i + 1], more.bucket[i : i + 1]), np.ones((1, 3), bool), labels[i : i + 1])
    assert (twin.learned, twin.overlap) == (belief.learned, 0.3)
    assert twin.dump() == belief.dump()


def test_what_it_never_kept_is_refused_and_leaves_it_as_it_was():
    belief = taught(*World(2, 3).draw(50), 2, 3)
    before = belief.dump()
    broken = Belief(2, 3)
    broken._seen[0, 0] = np.nan
    negative = Belief(2, 3)
    negative._said[0, 0, 0] = -1.0
    for garbage in (b"", b"garbage", before[:-5], before + b"x", Belief(3, 3).dump(), Belief(2, 4).dump(),
                    broken.dump(), negative.dump()):  # fmt: skip
        with pytest.raises(ValueError, match="belief"):
            belief.load(garbage)
        assert belief.dump() == before


# ---- Posteriors --------------------------------------------------------------------------------------------------

likelihoods = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).normal(-2.0, 2.0, (3, 4, 5)))
"""(n, M, C)"""


def evidence_of(likely, overlap):
    return Evidence(likely, np.log(np.full(5, 0.2)), overlap)


@given(likelihoods, st.floats(0.0, 1.0), st.integers(0, 15))
def test_a_posterior_is_a_distribution_whoever_has_spoken(likely, overlap, who):
    members = np.array([[bool(who >> m & 1) for m in range(4)]])
    found = posterior(evidence_of(likely, overlap), members)
    np.testing.assert_allclose(found.sum(axis=-1), 1.0)
    if not who:
        np.testing.assert_allclose(found, 0.2)


@given(likelihoods)
def test_copies_of_one_member_count_as_one_where_all_is_overlap_and_as_many_where_there_is_none(likely):
    copies = np.repeat(likely[:, :1], 4, axis=1)
    one, four = np.array([[True, False, False, False]]), np.ones((1, 4), dtype=bool)
    alone = posterior(evidence_of(copies, 1.0), one)
    np.testing.assert_allclose(posterior(evidence_of(copies, 1.0), four), alone)
    apart = np.exp(likely.sum(axis=1))
    np.testing.assert_allclose(
        posterior(evidence_of(likely, 0.0), four)[:, 0], apart / apart.sum(axis=1, keepdims=True)
    )


@settings(max_examples=50)
@given(likelihoods, st.floats(0.0, 1.0))
def test_sets_that_differ_from_row_to_row_are_pooled_like_each_alone(likely, overlap):
    evidence = evidence_of(likely, overlap)
    sets = np.array([[[True, False, True, False]], [[False, True, False, False]], [[True, True, True, True]]])
    together = posterior(evidence, sets)
    for i in range(3):
        np.testing.assert_allclose(together[i], posterior(evidence, sets[i])[i])


def test_an_answer_that_stands_for_two_requests_is_learned_twice():
    world = World(3, 4)
    said, truth = world.draw(60)
    known = np.ones((1, 3), dtype=bool)
    weighed, twice = Belief(3, 4), Belief(3, 4)
    for i in range(60):
        one, label = Said(said.label[i : i + 1], said.bucket[i : i + 1]), truth[i : i + 1]
        weighed.learn(one, known, label, np.array([1.0, 2.0, 1.0]))
        twice.learn(one, known, label)
        twice.learn(one, np.array([[False, True, False]]), label)
    # The habits that classes are shrunk to are renewed at other times: nothing else differs.
    weighed._renew()
    twice._renew()
    probe, _ = world.draw(30, seed=1)
    assert weighed.log_likelihood(probe) == pytest.approx(twice.log_likelihood(probe))
