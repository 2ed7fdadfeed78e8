"""Training: an agent learns on simulated or recorded traffic who should be in the ensemble, and is exported to ONNX.

The algorithms are Stable-Baselines3's. Needs the extra ``bandmaster[rl]``; what it exports does not.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import msgspec
import numpy as np
import onnx
import torch
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv

from bandmaster.agents import METADATA, About, Agent
from bandmaster.core import BandmasterError, BoolArray, FloatArray
from bandmaster.environment import EnsembleEnv, Source
from bandmaster.files import write
from bandmaster.plans import side_by_side

ALGORITHMS: Mapping[str, type[BaseAlgorithm]] = {"ppo": PPO, "a2c": A2C, "dqn": DQN}

GAMMA = 0.5
"""What a later reward counts for: little, as any ensemble is a few windows away from any other, and every window more
adds its own luck to what an action seems to have earned.
"""

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "ppo": {"gamma": GAMMA, "n_steps": 128, "batch_size": 256, "n_epochs": 5, "ent_coef": 0.02},
    "a2c": {"gamma": GAMMA, "n_steps": 16, "ent_coef": 0.02},
    "dqn": {
        "gamma": GAMMA,
        "batch_size": 64,
        "gradient_steps": 4,
        "learning_starts": 2000,
        "exploration_fraction": 0.3,
        "exploration_final_eps": 0.02,
    },
}
"""What is not Stable-Baselines3's own default, by algorithm. ``ent_coef``, what variety counts for, falls to 0 in the
course of training: an agent that is served does what it thinks best.
"""

SURVEYED = 2000
"""Windows that are played at random first, to learn on what scale what is seen and earned varies."""

FARTHEST = 10.0
"""What is seen is cut off so many standard deviations from its mean."""

PARITY, COMPARED = 1e-5, 10_000
"""How far the figures behind an exported agent's actions may be off, on so many observations."""


@dataclass(frozen=True, slots=True)
class Training:
    """How to train: with which of ``ALGORITHMS``, for how many ``steps`` (windows) at most, in so many environments
    side by side. ``settings`` are the algorithm's own. Every so many steps the agent plays ``episodes`` of what was
    held out; it stops when it was worse than its best ``patience`` times running.
    """

    algorithm: str = "ppo"
    steps: int = 500_000
    window: int = 100
    changes: str = "steps"
    environments: int = 8
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    every: int = 20_000
    episodes: int = 4
    patience: int = 8


@dataclass(frozen=True, slots=True)
class Progress:
    """How far training is, and the mean reward of a request on what was held out: lately, and at best; whether it was
    ``looked`` at just now.
    """

    steps: int
    of: int
    reward: float
    best: float
    looked: bool


class _Course(msgspec.Struct):
    """What is kept beside a checkpoint, to go on from it."""

    algorithm: str
    steps: int = 0
    best: float = float("-inf")
    best_at: int = 0
    since_best: int = 0
    reward: float = float("nan")
    variety: float | None = None


class Standardised(BaseFeaturesExtractor):
    """What is seen, less its ``mean``, by its ``spread``, both (d,): part of the network, so that it is exported."""

    def __init__(self, space: gymnasium.spaces.Box, mean: FloatArray, spread: FloatArray) -> None:
        super().__init__(space, features_dim=len(mean))
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("spread", torch.tensor(spread, dtype=torch.float32))

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        return torch.clip((seen - self.mean) / self.spread, -FARTHEST, FARTHEST)


class _Scaled(gymnasium.RewardWrapper[Any, Any]):
    """Rewards less what all members would have earned in the same window, by the scale on which that varies.

    What is taken off does not depend on the action, so that nothing else becomes the best; but most of the difference
    between one window's reward and another's is what requests came, and that goes (Mao et al. 2019, "Variance reduction
    for reinforcement learning in input-driven environments", section 4).
    """

    def __init__(self, env: EnsembleEnv, mean: float, spread: float) -> None:
        super().__init__(env)
        self._ensemble, self._mean, self._spread = env, mean, spread

    def reward(self, reward: Any) -> float:
        return float((reward - self._ensemble.usual - self._mean) / self._spread)


def train(
    source: Source, held_out: Source, training: Training, folder: Path, told: Callable[[Progress], None], resume: bool
) -> Path:
    """Train in ``folder``, where TensorBoard finds its logs, and export the best agent; return its file.

    With ``resume`` it goes on from the folder's last checkpoint, if there is one; DQN's replay buffer begins empty.
    Raises ``BandmasterError`` for settings that the algorithm does not have, or a checkpoint of another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    set_random_seed(training.seed)
    make = EnsembleEnv(source, window=training.window, changes=training.changes)
    last, course = folder / "last.zip", folder / "course.json"
    if resume and last.exists():
        so_far = msgspec.json.decode(course.read_bytes(), type=_Course)
        if so_far.algorithm != training.algorithm:
            raise BandmasterError(
                f"{folder}: holds a run of {so_far.algorithm}; name another folder, or that algorithm"
            )
    else:
        variety = {**SETTINGS[training.algorithm], **training.settings}.get("ent_coef")
        so_far = _Course(training.algorithm, variety=variety)
    model = _model(make, source, training, folder, last if so_far.steps else None)
    watching = _Watching(training, EnsembleEnv(held_out, window=training.window, changes=training.changes), folder,
                         so_far, told)  # fmt: skip
    model.learn(
        max(training.steps - so_far.steps, 0),
        callback=watching,
        reset_num_timesteps=not so_far.steps,
        tb_log_name="run",
    )
    watching.end()
    best = ALGORITHMS[training.algorithm].load(folder / "best.zip", device="cpu")
    return export(best, make, training, so_far.best_at, folder / "agent.onnx")


def _model(
    env: EnsembleEnv, source: Source, training: Training, folder: Path, checkpoint: Path | None
) -> BaseAlgorithm:
    algorithm, logs = ALGORITHMS[training.algorithm], str(folder / "tensorboard")
    mean, spread, reward = _surveyed(env, training.seed)

    def one() -> gymnasium.Env[Any, Any]:
        return _Scaled(EnsembleEnv(source, window=training.window, changes=training.changes), *reward)

    side_by_side = DummyVecEnv([one] * training.environments)
    if checkpoint is not None:
        return algorithm.load(checkpoint, env=side_by_side, device="cpu", tensorboard_log=logs)
    standardised = {"features_extractor_class": Standardised,
                    "features_extractor_kwargs": {"mean": mean, "spread": spread}}  # fmt: skip
    try:
        return algorithm(
            "MlpPolicy", side_by_side, policy_kwargs=standardised, seed=training.seed, device="cpu",
            tensorboard_log=logs, **{**SETTINGS[training.algorithm], **training.settings},
        )  # fmt: skip
    except (TypeError, ValueError, AssertionError) as problem:
        raise BandmasterError(f"{training.algorithm}: cannot be set up so: {problem}") from None


def _surveyed(env: EnsembleEnv, seed: int) -> tuple[FloatArray, FloatArray, tuple[float, float]]:
    """The mean and spread of what is seen, (d,) each, and those of the reward less what all members would have earned,
    where one acts at random.
    """
    env.action_space.seed(seed)
    observations, rewards, over = list[FloatArray](), list[float](), True
    while len(rewards) < SURVEYED:
        if over:
            env.reset(seed=seed + len(rewards))
        seen, reward, _, over, _ = env.step(env.action_space.sample())
        observations.append(seen)
        rewards.append(float(reward) - env.usual)
    spread = np.std(observations, axis=0)
    # What does not vary tells nothing, and must not be blown up where it does so once.
    return np.mean(observations, axis=0), np.where(spread > 1e-3, spread, 1.0), (
        float(np.mean(rewards)), float(np.std(rewards)) or 1.0,
    )  # fmt: skip


class _Watching(BaseCallback):
    """Looks at how the agent does on what was held out, keeps the best and the last, and says when to stop."""

    def __init__(
        self, training: Training, env: EnsembleEnv, folder: Path, course: _Course, told: Callable[[Progress], None]
    ) -> None:
        super().__init__()
        self._training, self._env, self._folder, self._course, self._told = training, env, folder, course, told
        self._due = course.steps + training.every

    def _on_rollout_start(self) -> None:
        if self._course.variety is not None:  # DQN has none
            self.model.ent_coef = self._course.variety * max(1.0 - self.num_timesteps / self._training.steps, 0.0)

    def _on_step(self) -> bool:
        if self.num_timesteps < self._due:
            if self.num_timesteps % 1024 < self._training.environments:
                self._tell(self.num_timesteps, looked=False)
            return True
        self._due += self._training.every
        return self._look()

    def end(self) -> None:
        """Look once more, unless the last look was at this very agent."""
        if self.num_timesteps > self._course.steps:
            self._look()

    def _look(self) -> bool:
        course, folder = self._course, self._folder
        course.steps = self.num_timesteps
        course.reward = played(self._env, self._training.episodes, self._act)
        self.logger.record("held_out/reward", course.reward)
        course.since_best += 1
        if course.reward >= course.best:  # of equals the latest, which has learned the most
            course.best, course.best_at, course.since_best = course.reward, course.steps, 0
            write(folder / "best.zip", self.model.save)
        write(folder / "last.zip", self.model.save)
        write(folder / "course.json", lambda new: new.write_bytes(msgspec.json.encode(course)))
        self._tell(course.steps, looked=True)
        return course.since_best < self._training.patience

    def _act(self, seen: FloatArray) -> Any:
        return self.model.predict(seen, deterministic=True)[0]

    def _tell(self, steps: int, *, looked: bool) -> None:
        self._told(Progress(steps, self._training.steps, self._course.reward, self._course.best, looked))


def played(env: EnsembleEnv, episodes: int, act: Callable[[FloatArray], Any]) -> float:
    """The mean reward of a request over so many episodes, always the same, where ``act`` acts on what is seen."""
    earned = []
    for episode in range(episodes):
        seen, _ = env.reset(seed=episode)
        over = False
        while not over:
            seen, reward, _, over, _ = env.step(act(seen))
            earned.append(float(reward))
    return float(np.mean(earned))


# ---- Exporting ----------------------------------------------------------------------------------------------


class _Acting(torch.nn.Module):
    """The network from what is seen to the action (B, parts) and the figures behind it: logits, or values in DQN."""

    def __init__(self, model: BaseAlgorithm, sizes: Sequence[int]) -> None:
        super().__init__()
        policy, self._sizes = model.policy, list(sizes)
        if isinstance(model, DQN):
            self._parts = torch.nn.Sequential(policy.q_net.features_extractor, policy.q_net.q_net)
        else:
            extractor = policy.mlp_extractor
            self._parts = torch.nn.Sequential(
                policy.pi_features_extractor, extractor.policy_net, policy.action_net
            )  # fmt: skip

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        preferences = self._parts(observation)
        chosen = [part.argmax(dim=1) for part in preferences.split(self._sizes, dim=1)]
        return torch.stack(chosen, dim=1), preferences


def export(model: BaseAlgorithm, env: EnsembleEnv, training: Training, steps: int, path: Path) -> Path:
    """Write a trained model as an ``agents.Agent``; return its file.

    Raises ``BandmasterError`` where it does not act as the model does on ``COMPARED`` observations.
    """
    acting = _Acting(model, env.changes.sizes).eval()
    size = env.observation_space.shape[0]
    example = torch.zeros(2, size)
    rows = torch.export.Dim("rows")
    program = torch.onnx.export(
        acting, (example,), dynamo=True, verbose=False, input_names=["observation"],
        output_names=["action", "preferences"], dynamic_shapes={"observation": {0: rows}},
    )  # fmt: skip
    written = program.model_proto
    ensemble = env.ensemble
    about = About(
        training.algorithm, ensemble.names, tuple(map(str, ensemble.classes)), training.changes, training.window, steps
    )
    onnx.helper.set_model_props(written, {METADATA: msgspec.json.encode(about).decode()})
    write(path, lambda new: new.write_bytes(written.SerializeToString()))
    require_parity(Agent(path), acting, size)
    return path


def require_parity(agent: Agent, acting: torch.nn.Module, size: int) -> None:
    """Raise ``BandmasterError`` unless an exported agent acts as the network does."""
    seen = np.random.default_rng(0).random((COMPARED, size), dtype=np.float32)
    with torch.no_grad():
        action, preferences = (out.numpy() for out in acting(torch.from_numpy(seen)))
    own_action, own_preferences = agent.prefer(seen)
    off = float(np.abs(own_preferences - preferences).max())
    if off > PARITY or not np.array_equal(own_action, action):
        others = int((own_action != action).any(axis=1).sum())
        raise BandmasterError(
            f"agent {agent.version}: differs from the network that was trained by up to {off:.2g}, and in {others} of "
            f"{COMPARED} actions; this is a bug, please report it"
        )


# ---- What it is compared with --------------------------------------------------------------------------------

MOST_MEMBERS = 8
"""Of so many members all ensembles are tried; of more, single members and all of them."""


def best_constant(source: Source, training: Training) -> tuple[str, float]:
    """The ensemble that, never changed, earns most on the episodes that agents are looked at, and its mean reward."""
    env = EnsembleEnv(source, window=training.window, changes="picks")
    earned = {
        side_by_side(env.ensemble, active): played(env, training.episodes, _constantly(active))
        for active in _ensembles(len(env.ensemble.names))
    }
    best = max(earned, key=earned.__getitem__)
    return best, earned[best]


def _constantly(active: BoolArray) -> Callable[[FloatArray], BoolArray]:
    """Acts by ``changes.Picks``."""
    return lambda seen: active


def _ensembles(members: int) -> list[BoolArray]:
    if members <= MOST_MEMBERS:
        return [np.array(on, dtype=np.bool_) for on in itertools.product([False, True], repeat=members) if any(on)]
    return [*np.eye(members, dtype=np.bool_), np.ones(members, dtype=np.bool_)]
