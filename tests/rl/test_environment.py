"""The Gymnasium environment keeps Gymnasium's rules, and does to the ensemble what its actions say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.extras
gymnasium = pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env  # noqa: E402

from bandmaster.environment import EnsembleEnv  # noqa: E402

EXAMPLE = Path(__file__).parents[2] / "configs" / "simulated.yaml"


@pytest.fixture(scope="module")
def env() -> EnsembleEnv:
    return EnsembleEnv(EXAMPLE)


def test_it_passes_gymnasium_s_own_check() -> None:
    made = gymnasium.make("bandmaster/Ensemble-v0", config=EXAMPLE, disable_env_checker=True)
    check_env(made.unwrapped, skip_render_check=True)


def test_actions_add_remove_replace_and_keep_members_but_never_remove_the_last(env: EnsembleEnv) -> None:
    both = np.array([True, True, False, False, False])
    assert env.changed(both, 0).tolist() == both.tolist()
    assert env.changed(both, 3).tolist() == [True, True, True, False, False]
    assert env.changed(both, 6).tolist() == [False, True, False, False, False]
    alone = np.array([True, False, False, False, False])
    assert env.changed(alone, 6).tolist() == alone.tolist()
    replaced = {tuple(env.changed(alone, action).tolist()) for action in range(11, env.action_space.n)}
    assert replaced == {tuple(np.eye(5, dtype=bool)[k].tolist()) for k in range(5)}  # by any other one, or kept


def test_an_episode_is_as_long_as_its_log_and_the_same_for_the_same_seed(env: EnsembleEnv) -> None:
    courses = []
    for _ in range(2):
        observation, _ = env.reset(seed=5)
        rewards, over = [], False
        while not over:
            assert env.observation_space.contains(observation)
            observation, reward, terminated, over, info = env.step(np.int64(len(rewards) % 7))
            assert not terminated
            assert info["members"]
            rewards.append(reward)
        courses.append(rewards)
    assert len(courses[0]) == 100
    assert courses[0] == courses[1]
