"""What a mistake costs: to take a virginica for a setosa is far worse than to mix up the two that look alike."""

import numpy as np

COST = np.array([[0, 2, 9], [2, 0, 1], [9, 1, 0]])
"""Of saying the column's class where the row's is true: setosa, versicolor, virginica."""


def harm(decision, answer, outcome) -> float:  # type: ignore[no-untyped-def]
    """The mean cost over the request's rows, in [0, 9]. Pure: the same records give the same figure."""
    return float(COST[list(outcome.labels), answer.labels].mean())
