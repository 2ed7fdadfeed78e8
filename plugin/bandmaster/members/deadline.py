"""How long a call of a member may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    """``fixed_s`` > 0 seconds and ``row_s`` ≥ 0 for each row, but never more than ``most_s``."""

    PATIENCE_S = 1.0
    PATIENCE = 20.0

    fixed_s: float
    row_s: float = 0.0
    most_s: float = float("inf")

    @classmethod
    def of(cls, declared_s: float | None, latency_s: float, most_s: float = float("inf")) -> Deadline:
        """What was declared; or else 1 s, and 20 times what a row took at start."""
        if declared_s is not None:
            return cls(declared_s, 0.0, most_s)
        return cls(cls.PATIENCE_S, cls.PATIENCE * latency_s, most_s)

    def seconds(self, rows: int) -> float:
        return min(self.fixed_s + self.row_s * rows, self.most_s)
