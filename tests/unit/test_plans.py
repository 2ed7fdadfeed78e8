"""Plans have names that can be read back, and catalogues keep their limit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandmaster.core import BandmasterError, Ensemble, Plan, Profile
from bandmaster.plans import Catalogue, all_members, cheapest_first, generate, parse_plan, pool_weights, without

NAMES = ("linear", "forest", "mlp", "svm-rbf", "tree_2")
ENSEMBLE = Ensemble(NAMES, (0, 1), {n: Profile(energy_j=10.0 - i) for i, n in enumerate(NAMES)})


@st.composite
def plans(draw):
    members = draw(st.permutations(NAMES))[: draw(st.integers(1, 5))]
    cuts = sorted(draw(st.sets(st.integers(1, len(members) - 1)))) if len(members) > 1 else []
    stages = tuple(tuple(members[a:b]) for a, b in zip([0, *cuts], [*cuts, len(members)], strict=True))
    stop_at = tuple(draw(st.sampled_from([0.5, 0.75, 0.9, 1.0])) for _ in stages[1:])
    own = tuple(draw(st.sampled_from([0.001, 0.25, 1.0, 1000.0])) for _ in members)
    weights = ["uniform", "recent", "declared", "learned", *([own] if set(own) != {1.0} else [])]
    return Plan(stages, draw(st.sampled_from(weights)), stop_at)


@given(plans())
def test_a_plans_name_reads_back_as_the_plan(plan):
    assert parse_plan(plan.name, ENSEMBLE) == plan


def test_all_is_short_for_every_member_at_once():
    assert parse_plan("all", ENSEMBLE) == all_members(ENSEMBLE) == Plan((NAMES,))
    assert parse_plan("all~declared", ENSEMBLE) == Plan((NAMES,), "declared")


@given(plans(), st.sets(st.sampled_from(NAMES), max_size=4))
def test_what_is_left_of_a_plan_weighs_its_members_as_the_whole_does(plan, out):
    rest = without(plan, out)
    if rest is None:
        assert set(plan.members) <= out
        return
    recent, left = np.arange(1.0, 6.0), [ENSEMBLE.index(name) for name in rest.members]
    weights, before = (pool_weights(p, ENSEMBLE, recent)[left] for p in (rest, plan))
    assert weights.tolist() == before.tolist()
    assert parse_plan(rest.name, ENSEMBLE) == rest or set(rest.weights) == {1.0}


def test_plans_that_list_members_in_another_order_share_no_weights():
    both = Catalogue.of(ENSEMBLE, [parse_plan(text, ENSEMBLE) for text in ("0.5*linear+mlp", "0.5*mlp+linear")])
    assert both.prefix_weights(np.ones(5)).tolist() == [[0.5, 0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.5, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nobody", "no member 'nobody'"),
        ("linear+linear", "twice"),
        ("linear>mlp", "threshold"),
        ("linear@0.9", "cascade"),
        ("linear>mlp@1.5", r"\(0, 1\]"),
        ("linear>mlp@often", r"\(0, 1\]"),
        ("linear~heavy", "~recent"),
        ("0*linear+mlp", "weight '0' must be a number from 0.001 to 1000"),
        ("much*linear+mlp", "weight 'much' must be a number"),
        ("nan*linear+mlp", "weight 'nan' must be a number"),
        ("2*linear+mlp~recent", "has weights of its own and ~recent; keep one of the two"),
        ("", "no member ''"),
    ],
)
def test_a_name_that_is_no_plan_is_refused_with_the_fix(text, says):
    with pytest.raises(BandmasterError, match=says):
        parse_plan(text, ENSEMBLE)


@given(st.integers(0, 5), st.integers(0, 5), st.integers(8, 200))
def test_a_catalogue_keeps_its_limit_and_has_every_member_and_all_of_them(subsets, cascades, limit):
    made = generate(ENSEMBLE, subsets=subsets, cascades=cascades, stop_at=(0.7, 0.9), limit=limit)
    assert len(made) <= limit
    assert len({p.name for p in made}) == len(made)
    assert {(n,) for n in NAMES} <= {p.stages[0] for p in made if not p.stop_at}
    assert all_members(ENSEMBLE) in made
    assert all(len(p.members) <= max(subsets, 1) for p in made if not p.stop_at and len(p.members) < len(NAMES))
    assert all(len(p.stages) <= max(cascades, 1) for p in made)


def test_room_that_one_kind_leaves_is_the_others():
    only_sets = generate(ENSEMBLE, subsets=3, cascades=0, stop_at=(), limit=20)
    only_chains = generate(ENSEMBLE, subsets=0, cascades=3, stop_at=(0.5, 0.9), limit=20)
    assert len(only_sets) == len(only_chains) == 20


def test_a_cascade_goes_from_cheap_to_dear():
    made = generate(ENSEMBLE, subsets=0, cascades=3, stop_at=(0.9,), limit=50)
    order = {n: i for i, n in enumerate(sorted(NAMES, key=lambda n: ENSEMBLE.profiles[n].energy_j))}
    for plan in made:
        if plan.stop_at:
            assert list(plan.members) == sorted(plan.members, key=order.__getitem__)


def test_a_figure_that_one_member_lacks_makes_nobody_cheap():
    profiles = {"a": Profile(latency_s=3.0), "b": Profile(1.0, 5.0), "c": Profile(2.0, 1.0)}
    assert cheapest_first(Ensemble(("a", "b", "c"), (0, 1), profiles)) == ["b", "c", "a"]


def test_included_plans_are_always_offered():
    wanted = parse_plan("forest>linear@0.95", ENSEMBLE)
    assert wanted in generate(ENSEMBLE, subsets=0, cascades=0, stop_at=(), limit=8, include=[wanted])


def test_a_limit_without_room_is_refused_with_the_number_needed():
    with pytest.raises(BandmasterError, match="at least 7"):
        generate(ENSEMBLE, subsets=2, cascades=2, stop_at=(0.9,), limit=6)


def test_a_catalogue_refuses_two_plans_of_one_name():
    plan = parse_plan("linear", ENSEMBLE)
    with pytest.raises(BandmasterError, match="linear"):
        Catalogue.of(ENSEMBLE, [plan, plan])


def test_a_single_member_makes_a_catalogue_of_one():
    alone = Ensemble(("one",), (0, 1))
    assert [p.name for p in generate(alone, subsets=2, cascades=2, stop_at=(0.9,), limit=64)] == ["one"]
