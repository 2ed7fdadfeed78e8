"""Replay: what would each policy have earned on recorded traffic? Drives the very same ``answer`` and ``settle``."""

from bandmaster.replay.engine import Bench, Step, replay
from bandmaster.replay.hindsight import FixedPlans, fixed_plans
from bandmaster.replay.playing import MakeParts, Parts, refer, run
from bandmaster.replay.spread import Spread, processes, ray_cluster
from bandmaster.replay.trace import Trace, figures_of, profiles_of, trace_frame
from bandmaster.replay.traffic import Drawn, Mix, Order, Traffic, draw, redraw

__all__ = [
    "Bench", "Drawn", "FixedPlans", "MakeParts", "Mix", "Order", "Parts", "Spread", "Step", "Trace", "Traffic",
    "draw", "figures_of", "fixed_plans", "processes", "profiles_of",
    "ray_cluster", "redraw", "refer", "replay", "run", "trace_frame",
]  # fmt: skip
