"""The Gymnasium environment keeps Gymnasium's rules and Stable-Baselines3's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.extras
gymnasium = pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env  # noqa: E402
from stable_baselines3.common.env_checker import check_env as check_for_stable_baselines  # noqa: E402

from bandmaster.changes import CHANGES  # noqa: E402
from bandmaster.core import BandmasterError  # noqa: E402
from bandmaster.environment import EnsembleEnv  # noqa: E402

EXAMPLE = Path(__file__).parents[2] / "configs" / "simulated.yaml"


@pytest.mark.parametrize("changes", list(CHANGES))
def test_it_passes_gymnasium_s_own_check_and_that_of_stable_baselines(changes: str) -> None:
    made = gymnasium.make("bandmaster/Ensemble-v0", config=EXAMPLE, changes=changes, disable_env_checker=True)
    check_env(made.unwrapped, skip_render_check=True)
    check_for_stable_baselines(made.unwrapped)


def test_several_can_be_played_side_by_side() -> None:
    side_by_side = gymnasium.make_vec("bandmaster/Ensemble-v0", num_envs=3, config=EXAMPLE)
    observations, _ = side_by_side.reset(seed=0)
    assert observations.shape == (3, *side_by_side.single_observation_space.shape)
    _, rewards, *_ = side_by_side.step(side_by_side.action_space.sample())
    assert len(set(rewards.tolist())) == 3  # each its own traffic


def test_an_episode_is_as_long_as_its_log_and_the_same_for_the_same_seed() -> None:
    env, courses = EnsembleEnv(EXAMPLE), []
    for _ in range(2):
        observation, _ = env.reset(seed=5)
        rewards, over = [], False
        while not over:
            assert env.observation_space.contains(observation)
            observation, reward, terminated, over, info = env.step(np.int64(len(rewards) % 7))
            assert not terminated
            assert info["plan"]
            rewards.append(reward)
        courses.append(rewards)
    assert len(courses[0]) == 100
    assert courses[0] == courses[1]


def test_what_cannot_be_played_is_refused() -> None:
    with pytest.raises(BandmasterError, match="no way 'leaps' to change an ensemble; there are steps, picks, weights"):
        EnsembleEnv(EXAMPLE, changes="leaps")
    with pytest.raises(BandmasterError, match="a log of 10000 requests has no window of 20000; make windows smaller"):
        EnsembleEnv(EXAMPLE, window=20_000)
