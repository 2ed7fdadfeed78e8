"""A log of decisions whose every figure is known, and one that another implementation has judged too."""

import numpy as np
import polars as pl
import pytest


@pytest.fixture(scope="session")
def judged():
    """500 decisions among 4 actions, with a target and a model of rewards; see ``test_estimators.OBP``."""
    rng = np.random.default_rng(2020)
    n, actions = 500, 4
    logging, target = rng.dirichlet(np.ones(actions), size=n), rng.dirichlet(np.ones(actions), size=n)
    model = rng.random((n, actions))
    action = (logging.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    reward = (rng.random(n) < 0.3 + 0.1 * action).astype(float)
    every = np.arange(n)
    return pl.DataFrame(
        {
            "reward": reward,
            "propensity": logging[every, action],
            "target": target[every, action],
            "predicted": model[every, action],
            "expected": (target * model).sum(axis=1),
        }
    )


def simulate(rng, n, sharpness=1.0, actions=5):
    """A log of ``n`` decisions with a target's probabilities and a model of rewards that errs; and the target's value
    on just these contexts.
    """
    x = rng.normal(size=(n, 3))
    of_reward, of_logging = np.random.default_rng(5).normal(size=(3, actions)), np.random.default_rng(6)
    rewards = 1.0 / (1.0 + np.exp(1.0 - x @ of_reward))
    logging = 0.8 * _softmax(0.7 * x @ of_logging.normal(size=(3, actions))) + 0.2 / actions
    target = _softmax(2.0 * sharpness * x @ of_reward)
    action = (logging.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    every = np.arange(n)
    model = np.clip(rewards + 0.15 * np.sin(3.0 * x[:, :1]), 0.0, 1.0)
    frame = pl.DataFrame(
        {
            "x0": x[:, 0],
            "x1": x[:, 1],
            "x2": x[:, 2],
            "action": action,
            "reward": (rng.random(n) < rewards[every, action]).astype(float),
            "propensity": logging[every, action],
            "target": target[every, action],
            "predicted": model[every, action],
            "expected": (target * model).sum(axis=1),
        }
    )
    return frame, float((target * rewards).sum(axis=1).mean())


def _softmax(scores):
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)
