"""Serving under BentoML: the user's service wrapped, a learner beside it, a door in front of it."""

from bandmaster.serving.service import orchestrate

__all__ = ["orchestrate"]
