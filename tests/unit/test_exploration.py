"""Our formulas of exploration are Vowpal Wabbit's, and what they give is a distribution that favours the best."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandmaster.core import BandmasterError
from bandmaster.learner import profile_figures
from bandmaster.policies.exploration import Exploration, spread
from bandmaster.policies.vw import VowpalWabbit
from bandmaster.policies.vw_alone import VowpalWabbitPolicy
from bandmaster.testing import sample_log
from bandmaster.testing.policies import CONTRACT, sample_catalogue

VALUES = st.lists(st.floats(-1, 2), min_size=1, max_size=40).map(np.array)
WAYS = st.one_of(
    st.builds(Exploration, st.just("epsilon"), st.floats(0, 1)),
    st.builds(Exploration, st.just("squarecb"), st.floats(0, 1e6)),
    st.builds(Exploration, st.just("softmax"), st.floats(0, 1e6)),
)


def example(rng, plans=8):
    return [f"shared |s f{rng.randrange(4)}", *(f"|p p{k} |m m{k % 3}" for k in range(plans))]


@pytest.mark.parametrize("way", [Exploration("epsilon", 0.1), Exploration("squarecb", 20), Exploration("softmax", 5)])
def test_a_formula_gives_what_vowpal_wabbit_gives_for_the_same_costs(way):
    rng, learned = random.Random(0), 60
    common = "--cb_type mtr --clip_p 1 -l 1 -q sp --random_seed 0"
    explorer = VowpalWabbit(f"--cb_explore_adf {common} {way.vw_options}")
    costs = VowpalWabbit(f"--cb_adf {common}")
    for _ in range(learned):
        lines, k = example(rng), rng.randrange(8)
        lines[k + 1] = f"0:{rng.random():.4f}:0.125 {lines[k + 1]}"
        explorer.learn(lines)
        costs.learn(lines)
    for _ in range(20):
        lines = example(rng)
        ours = spread(-np.array(costs.predict(lines)), way, learned)
        np.testing.assert_allclose(explorer.predict(lines), ours, atol=1e-5)


@given(VALUES, WAYS, st.integers(0, 10**6))
def test_any_values_give_a_distribution_that_no_plan_beats_the_best_in(values, way, learned):
    p = spread(values, way, learned)
    assert p.shape == values.shape
    assert np.all(p >= 0.0)
    assert p.sum() == pytest.approx(1.0)
    assert p[values.argmax()] == pytest.approx(p.max())


@pytest.mark.parametrize("by", ["bag", "rnd"])
def test_what_needs_models_of_its_own_is_refused_with_the_fix(by):
    with pytest.raises(BandmasterError, match=r"only policy\.use: vw has"):
        spread(np.zeros(3), Exploration(by, 3), 0)


@pytest.mark.parametrize("other", [Exploration("squarecb", 20), Exploration("epsilon", 0.1)])
def test_a_model_that_explored_otherwise_is_refused_because_it_would_go_on_so(other):
    log = sample_log(1)
    catalogue, figures = sample_catalogue(log), profile_figures(log.ensemble)
    kept = VowpalWabbitPolicy(catalogue, CONTRACT, figures, explore=Exploration("squarecb", 10)).dump()
    with pytest.raises(BandmasterError, match="explores by --squarecb --gamma_scale 10, not"):
        VowpalWabbitPolicy(catalogue, CONTRACT, figures, explore=other).load(kept)
