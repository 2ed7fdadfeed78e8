"""Streaming estimates agree with what they estimate, forget as they say, and survive being kept."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bandmaster.combine import pool, recent_weights, verdict
from bandmaster.core import NO_ANSWER, class_prior
from bandmaster.estimators import (
    ForgettingRegression,
    LabelMix,
    RandomFourierFeatures,
    Repetition,
    Slope,
    Standardiser,
    WindowedMean,
)
from bandmaster.features import SUMMARY, features_of, features_of_each

unit = st.floats(0.0, 1.0)


@given(arrays(float, (30, 2), elements=unit), unit)
def test_a_windowed_mean_stays_within_what_it_has_seen(values, prior):
    mean = WindowedMean(2, window=10, prior=prior)
    for row in values:
        mean.update(row)
    seen = np.vstack([values, [prior, prior]])
    assert np.all(mean.value <= seen.max(axis=0) + 1e-9)
    assert np.all(mean.value >= seen.min(axis=0) - 1e-9)


def test_a_windowed_mean_follows_a_change_within_a_few_windows():
    mean = WindowedMean(1, window=20)
    for _ in range(500):
        mean.update(np.array([1.0]))
    for _ in range(60):
        mean.update(np.array([0.0]))
    assert mean.value[0] < 0.06  # e⁻³


def test_an_unknown_value_changes_nothing():
    mean = WindowedMean(2, window=10, prior=0.3)
    mean.update(np.array([0.9, np.nan]))
    assert mean.value[1] == pytest.approx(0.3)
    assert mean.seen.tolist() == [1.0, 0.0]


@given(arrays(float, (30,), elements=unit), unit)
def test_a_single_stream_takes_a_figure_as_it_takes_an_array_of_one(values, prior):
    one, array = (WindowedMean(1, window=10, prior=prior) for _ in range(2))
    for value in values.tolist():
        one.update_one(value)
        array.update(np.array([value]))
    assert one.dump() == array.dump()


@given(arrays(float, (20, 2), elements=unit))
def test_a_slope_takes_a_single_figure_as_it_takes_an_array_of_one(values):
    one, array = (Slope(window=10) for _ in range(2))
    for foretold, came in values.tolist():
        one.update_one(foretold, came)
        array.update(np.array([foretold]), np.array([came]))
    assert one.dump() == array.dump()


@given(st.lists(st.tuples(st.integers(0, 2), unit, st.floats(0.1, 50.0)), max_size=40), st.integers(0, 5))
def test_a_target_that_is_learned_alone_comes_out_as_it_does_beside_others(learned, size):
    rng = np.random.default_rng(len(learned))
    alone, beside = (ForgettingRegression(np.full(4, 0.3), size, memory=50.0, ridge=2.0) for _ in range(2))
    for k, value, weight in learned:
        x, values, weights = rng.normal(size=size), np.full(4, np.nan), np.full(4, weight)
        alone.learn_one(k, x, value, weight)
        values[[k, 3]] = value, rng.random()  # the last is known of every outcome here, and of none there
        beside.learn(x, values, weights)
    x = rng.normal(size=size)
    np.testing.assert_allclose(alone.predict(x)[:3], beside.predict(x)[:3], rtol=1e-9, atol=1e-12)


def test_shrinking_keeps_the_mean_and_lets_new_values_move_it():
    slow, fast = (WindowedMean(1, window=1000, prior=0.0) for _ in range(2))
    for mean in (slow, fast):
        for _ in range(500):
            mean.update(np.array([0.8]))
    before = fast.value[0]
    fast.shrink(np.array([True]), keep=4.0)
    assert fast.value[0] == pytest.approx(before)
    for mean in (slow, fast):
        for _ in range(8):
            mean.update(np.array([0.0]))
    assert fast.value[0] < 0.3 < 0.7 < slow.value[0]


def test_what_a_windowed_mean_keeps_makes_another_its_equal():
    mean, twin = WindowedMean(3, window=10), WindowedMean(3, window=10)
    for row in np.random.default_rng(0).random((20, 3)):
        mean.update(row)
    twin.load(mean.dump())
    assert np.array_equal(mean.value, twin.value)
    with pytest.raises(ValueError, match="3 lists"):
        WindowedMean(2, window=10).load(mean.dump())


def test_regression_without_forgetting_is_the_ridge_solution():
    rng = np.random.default_rng(0)
    x, truth = rng.normal(size=(80, 3)), np.array([0.2, -0.4, 0.1])
    y = 0.5 + x @ truth + rng.normal(0, 0.05, 80)
    model = ForgettingRegression(np.array([0.3]), 3, memory=np.inf, ridge=10.0)
    for row, value in zip(x, y, strict=True):
        model.learn(row, np.array([value]))
    design = np.c_[np.ones(80), x]
    ridge = np.diag([3.0, 10.0, 10.0, 10.0])
    weights = np.linalg.solve(design.T @ design + ridge, design.T @ (y - 0.3))
    at = rng.normal(size=3)
    assert model.predict(at)[0] == pytest.approx(0.3 + np.r_[1.0, at] @ weights, abs=1e-9)


def test_regression_forgets_the_world_before():
    rng = np.random.default_rng(1)
    model = ForgettingRegression(np.zeros(1), 1, memory=100, ridge=10.0)
    for slope, seen in ((1.0, 600), (-1.0, 300), (-1.0, 1200)):
        for x in rng.normal(size=seen):
            model.learn(np.array([x]), np.array([slope * x]))
        if seen == 300:
            assert model.predict(np.array([1.0]))[0] < 0.0  # more than half way within three memories
    assert model.predict(np.array([1.0]))[0] == pytest.approx(-1.0, abs=0.05)


def test_a_long_quiet_spell_does_regression_no_harm():
    model = ForgettingRegression(np.zeros(1), 2, memory=50, ridge=10.0)
    for _ in range(20_000):
        model.learn(np.array([1.0, 0.0]), np.array([0.5]))
    model.learn(np.array([0.0, 1.0]), np.array([1.0]))
    assert np.isfinite(model.predict(np.array([1.0, 1.0]))).all()
    assert abs(model.predict(np.array([1.0, 0.0]))[0] - 0.5) < 0.2


def test_regression_is_as_sound_and_as_quick_after_fifty_thousand_outcomes_as_after_two_thousand():
    # One live input, one that stays constant and one that stays zero: neither may stop it or drive it astray.
    rng = np.random.default_rng(0)
    model = ForgettingRegression(np.zeros(1), 3, memory=500, ridge=10.0)

    def follows(after):
        for x in rng.normal(size=after):
            model.learn(np.array([x, 1.0, 0.0]), np.array([0.7 + 0.2 * x]))
        assert model.predict(np.array([1.0, 1.0, 0.0]))[0] == pytest.approx(0.9, abs=0.02)
        covariance = model._covariance[0]
        assert np.array_equal(covariance, covariance.T)
        assert np.linalg.eigvalsh(covariance).min() > 0.0
        for x in rng.normal(size=1500):  # three memories of 500
            model.learn(np.array([x, 1.0, 0.0]), np.array([0.1]))
        return model.predict(np.array([0.0, 1.0, 0.0]))[0]

    assert follows(2_000) == pytest.approx(0.1, abs=0.06)
    assert follows(50_000) == pytest.approx(0.1, abs=0.06)


def test_one_absurd_request_does_not_hide_all_that_come_after_it():
    rng, standard = np.random.default_rng(0), Standardiser(1)
    for x in [*rng.normal(size=500), 3e38, -1e30, *rng.normal(size=500)]:
        standard.learn(np.array([x]))
    assert standard(np.array([2.0]))[0] == pytest.approx(2.0, abs=0.6)


@given(arrays(float, (3, 5), elements=st.floats(allow_nan=False, allow_infinity=False)), st.booleans())
def test_features_of_any_finite_rows_are_finite(rows, summarise):
    features = features_of(rows, summarise=summarise)
    assert np.isfinite(features).all()
    assert len(features) == (len(SUMMARY) if summarise else 5)


@given(st.integers(1, 100))
def test_a_summary_has_one_width_whatever_the_rows_have(columns):
    rows = np.random.default_rng(0).normal(size=(2, columns))
    assert len(features_of(rows, summarise=True)) == len(SUMMARY)


@given(st.integers(1, 3), st.integers(33, 900), st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 1.0, 1e6]))
def test_a_summary_is_to_the_bit_what_numpy_makes_of_the_rows(n, columns, seed, scale):
    rows = np.random.default_rng(seed).normal(scale=scale, size=(n, columns)).round(2)
    found = dict(zip(SUMMARY, features_of_each(rows).T, strict=True))
    np.testing.assert_array_equal(found["mean"], rows.mean(axis=1))
    np.testing.assert_array_equal(found["deviation"], rows.std(axis=1))
    deciles = np.quantile(rows, (0.1, 0.5, 0.9), axis=1)
    np.testing.assert_array_equal([found["low_decile"], found["median"], found["high_decile"]], deciles)
    scale = np.where(rows.std(axis=1) > 0.0, rows.std(axis=1), 1.0)
    for name, order in (("roughness", 1), ("grain", 2)):
        steps = np.abs(np.diff(rows, n=order, axis=1, append=rows[:, -1:]))
        np.testing.assert_array_equal(found[name], steps.mean(axis=1) / scale)


def test_fourier_features_approximate_the_gaussian_kernel():
    features = RandomFourierFeatures(3, 20_000)
    a, b = np.array([1.0, -0.5, 0.2]), np.array([0.1, 0.4, -1.0])
    kernel = np.exp(-0.5 * features.SCALE**2 * np.sum((a - b) ** 2))
    # The mean of 20,000 bounded terms: 0.05 is seven standard errors; and the directions never change.
    assert features(a)[3:] @ features(b)[3:] / 20_000 == pytest.approx(kernel, abs=0.05)
    assert np.array_equal(features(a), RandomFourierFeatures(3, 20_000)(a))


def test_a_constant_feature_is_standardised_to_nothing():
    standard = Standardiser(2)
    for x in np.random.default_rng(0).normal(5.0, 2.0, 1000):
        standard.learn(np.array([x, 7.0]))
    z = standard(np.array([7.0, 7.0]))
    assert z[0] == pytest.approx(1.0, abs=0.15)
    assert z[1] == 0.0


@given(st.binary(max_size=200))
def test_bytes_that_were_never_dumped_are_refused_or_give_finite_figures(garbage):
    try:
        standard = Standardiser.of(garbage)
    except ValueError:
        return
    assert np.isfinite(standard(np.zeros(standard.size))).all()


@given(st.integers(1, 6), st.integers(2, 5), st.data())
def test_a_pool_of_distributions_is_a_distribution(members, classes, data):
    scores = data.draw(arrays(float, (members, classes), elements=st.floats(0.01, 1.0)))
    scores /= scores.sum(axis=1, keepdims=True)
    scores[data.draw(arrays(bool, members))] = 0.0
    pooled = pool(scores, data.draw(arrays(float, members, elements=st.floats(0.1, 5.0))))
    assert pooled.sum() == pytest.approx(1.0 if scores.any() else 0.0)
    label, confidence = verdict(pooled)
    assert (label == -1) == (confidence == 0.0) == (not scores.any())


@given(st.integers(2, 50), arrays(float, 4, elements=unit))
def test_a_better_member_never_weighs_less(classes, accuracy):
    weights = recent_weights(np.sort(accuracy), classes)
    assert np.all(weights > 0.0)
    assert np.all(np.diff(weights) >= 0.0)


shares = arrays(float, 4, elements=st.floats(0.0, 1.0)).map(lambda x: (x + 1e-6) / (x + 1e-6).sum())


# ---- Repetition --------------------------------------------------------------------------------------------------


def repetition_after(labels, mix, delay=0, until=None):
    """Of labels that come one by one, each so many requests late, up to that of request ``until``."""
    repetition, known = Repetition(len(mix)), []
    for i in range(len(labels)):
        known.append((repetition.newest, repetition.since, repetition.requests))
        repetition.noticed()
        if i >= delay and (until is None or i <= until):
            repetition.learn(np.array([labels[i - delay]]), mix, *known[i - delay], float(i - delay))
    return repetition


def sticky(n, stay, mix, seed=0):
    """Classes of which each repeats the one before with probability ``stay``, and is drawn from the mix otherwise."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(len(mix), size=n, p=mix)
    for i in np.flatnonzero(rng.random(n) < stay)[1:]:
        labels[i] = labels[i - 1]
    return labels


@pytest.mark.parametrize("stay", [0.2, 0.5, 0.9])
def test_how_often_labels_repeat_is_found_and_what_the_mix_foresees_is_no_repetition(stay):
    mix = np.array([0.7, 0.2, 0.1])
    shares = [repetition_after(sticky(2000, stay, mix, seed), mix).share for seed in range(20)]
    # A window of 100 labels: one share strays by .07 at most, the mean of twenty by .016; four deviations.
    assert np.mean(shares) == pytest.approx(stay, abs=0.065)


def test_where_labels_do_not_repeat_next_to_nothing_is_made_of_the_newest():
    mix = np.full(10, 0.1)
    shares = [repetition_after(sticky(2000, 0.0, mix, seed), mix).share for seed in range(20)]
    assert np.mean(shares) < 0.03  # when written .008


def test_labels_that_come_late_say_as_much_as_they_did_so_late():
    mix = np.full(4, 0.25)
    labels = sticky(4000, 0.9, mix)
    assert repetition_after(labels, mix, delay=200).share < 0.1
    assert repetition_after(labels, mix, delay=1).share == pytest.approx(0.81, abs=0.15)


@pytest.mark.parametrize("delay", [0, 200])
def test_when_labels_stop_the_newest_is_forgotten_and_when_they_come_again_it_is_as_it_was(delay):
    mix = np.full(4, 0.25)
    labels = sticky(4000, 0.97, mix)
    before = repetition_after(labels[:3000], mix, delay)
    stopped = repetition_after(labels[:3300], mix, delay, until=2999)
    assert stopped.newest == before.newest
    assert stopped.since == before.since + 300
    assert stopped.share < 0.1
    stopped.learn(labels[3300 - delay : 3301 - delay], mix, -1, 1, 3300 - delay, 4000.0)
    assert stopped.share == before.share


def test_what_nothing_was_known_before_says_nothing_of_repetition():
    repetition = Repetition(2)
    for i in range(500):
        repetition.noticed()
        repetition.learn(np.array([0]), np.array([0.5, 0.5]), NO_ANSWER, 1, i, float(i))
    assert repetition.share == Repetition.FIRST
    assert repetition.newest == 0


def test_the_label_of_an_earlier_request_that_comes_later_is_not_the_newest():
    repetition = Repetition(3)
    for _ in range(10):
        repetition.noticed()
    repetition.learn(np.array([2]), np.full(3, 1 / 3), 0, 1, 8, at=8.0)
    repetition.learn(np.array([1]), np.full(3, 1 / 3), 0, 1, 3, at=3.0)
    assert (repetition.newest, repetition.since) == (2, 2)


def test_a_learner_that_starts_anew_counts_from_where_it_is():
    repetition = Repetition(2)
    repetition.noticed()
    repetition.learn(np.array([1]), np.array([0.5, 0.5]), 0, 1, 50_000, at=1.0)  # the one before had seen many more
    for _ in range(5):
        repetition.noticed()
    assert repetition.since == 5


requests = st.tuples(
    st.lists(st.integers(0, 2), min_size=1, max_size=3), st.integers(-1, 2), st.integers(1, 10**6), st.integers(0, 99)
)


@given(st.lists(requests, max_size=60))
def test_shares_of_repetition_never_leave_what_they_could_not_come_back_from(learned):
    repetition = Repetition(3)
    for labels, newest, since, at in learned:
        repetition.noticed()
        repetition.learn(np.array(labels), np.array([0.5, 0.3, 0.2]), newest, since, at, float(at))
    assert (repetition.shares >= Repetition.LEAST).all()
    assert (repetition.shares <= 1.0 - Repetition.LEAST).all()
    twin = Repetition(3)
    twin.load(repetition.dump())
    assert twin.dump() == repetition.dump()
    assert (twin.newest, twin.since, twin.share) == (repetition.newest, repetition.since, repetition.share)


def broken(place, value):
    dumped = Repetition(3).dump()
    dumped[place] = value
    return dumped


@pytest.mark.parametrize(
    "garbage",
    [[], [0.0], broken(0, -1.0), broken(0, float("inf")), broken(1, 3.0), broken(1, -2.0), broken(2, 5.0),
     broken(3, float("nan")), broken(4, 0.0), broken(5, 1.0), broken(6, float("nan"))],
)  # fmt: skip
def test_repetition_refuses_what_it_never_kept_and_stays_as_it_was(garbage):
    repetition = Repetition(3)
    before = repetition.dump()
    with pytest.raises(ValueError, match=r"repetitions|newest"):
        repetition.load(garbage)
    assert repetition.dump() == before


@pytest.mark.parametrize(("since", "lag"), [(1, 0), (2, 1), (3, 1), (4, 2), (7, 2), (8, 3), (2**15, 15), (10**9, 15)])
def test_lags_double(since, lag):
    assert Repetition.lag(since) == lag
    assert Repetition.lag(np.array([since, 1])).tolist() == [lag, 0]


@given(shares, st.floats(0.0, 1.0), st.integers(-1, 3))
def test_a_prior_is_a_distribution_and_gives_the_newest_class_no_less_than_the_mix_does(mix, repeats, newest):
    prior = class_prior(mix, repeats, newest)
    assert prior.sum() == pytest.approx(1.0)
    if newest == NO_ANSWER:
        assert prior.tolist() == mix.tolist()
    else:
        assert prior[newest] >= mix[newest] - 1e-12
    np.testing.assert_array_equal(class_prior(mix, repeats, np.array([newest, NO_ANSWER])), [prior, mix])


# ---- The label mix -----------------------------------------------------------------------------------------------


def mix_after(labels, classes=4):
    mix = LabelMix(classes)
    for label in labels:
        mix.learn(np.eye(classes)[label] if np.ndim(label) == 0 else label)
    return mix


@given(st.lists(shares, max_size=40), st.lists(st.integers(0, 3), max_size=10))
def test_the_classes_shares_are_a_distribution_without_zeros_whatever_was_learned(learned, corrected):
    mix = mix_after(learned)
    for true, guessed in zip(corrected, learned, strict=False):
        mix.correct(np.eye(4)[true] - guessed)
    for found in (mix.value, mix.steady):
        assert found.shape == (4,)
        assert (found > 0.0).all()
        assert found.sum() == pytest.approx(1.0)


def test_before_anything_was_seen_all_classes_are_alike():
    assert LabelMix(5).value.tolist() == [0.2] * 5


def test_a_mix_that_stays_is_found_as_exactly_as_its_best_memory_allows():
    off = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        truth = rng.dirichlet(np.full(6, 2.0))
        mix = mix_after(rng.choice(6, size=6000, p=truth), 6)
        off.append(np.abs(mix.value - truth).sum() / 2)
    assert max(off) < 0.06  # 250 labels stray by .06 and more, 1,000 by .03; when written .012 to .031


@pytest.mark.parametrize("before", [100, 2000, 20_000])
def test_an_abrupt_change_is_followed_within_thirty_labels_however_long_nothing_changed(before):
    rng = np.random.default_rng(0)
    mix = mix_after(rng.integers(0, 2, before))
    for label in rng.integers(2, 4, 30):
        mix.learn(np.eye(4)[label])
    assert mix.value[2:].sum() > 0.8
    assert mix.steady[2:].sum() < 0.4


def test_what_is_put_right_is_as_if_it_had_been_known():
    rng = np.random.default_rng(0)
    right, wrong = LabelMix(3), LabelMix(3)
    for label in np.eye(3)[rng.integers(0, 3, 300)]:
        guess = rng.dirichlet(np.ones(3))
        right.learn(label)
        wrong.learn(guess)
        wrong.correct(label - guess)
    # A memory's counts only differ where one would have fallen below 0; its merit rests on what was guessed then.
    np.testing.assert_allclose(wrong.steady, right.steady, atol=0.02)


def test_what_a_mix_keeps_makes_another_its_equal():
    mix, twin = mix_after(np.random.default_rng(0).integers(0, 4, 200)), LabelMix(4)
    twin.load(mix.dump())
    for label in range(4):
        assert twin.value.tolist() == mix.value.tolist()
        for m in (mix, twin):
            m.learn(np.eye(4)[label])
            m.correct(np.array([0.5, -0.5, 0.0, 0.0]))


def test_a_mix_refuses_what_it_never_kept_and_stays_as_it_was():
    mix = mix_after([0, 1, 1])
    before = mix.dump()
    broken = [*before[:-1], [float("nan")] * 5]
    for garbage in ([], before[:-1], LabelMix(3).dump(), broken, [[1.0]]):
        with pytest.raises(ValueError, match="finite figures"):
            mix.load(garbage)
    assert mix.dump() == before


def test_an_observation_that_counts_for_three_moves_a_mean_as_three_do_where_nothing_is_forgotten():
    thrice, weighed = (WindowedMean(2, window=1e12, prior=0.5) for _ in range(2))
    for value in (0.1, 0.9, 0.4):
        weighed.update(np.array([value, np.nan]), np.array([3.0, 3.0]))
        for _ in range(3):
            thrice.update(np.array([value, np.nan]))
    assert weighed.value == pytest.approx(thrice.value)
    assert weighed.seen.tolist() == [3.0, 0.0]
