"""What the results of a replay say, in plain sentences."""

from __future__ import annotations

import math

from bandmaster.results import BEST_PLAN, Constant, Measures, PolicyResult, Results


def leader(results: Results) -> tuple[str, PolicyResult]:
    """The policy that earned the most, of those that knew nothing in hindsight if there are any."""
    fair = {n: r for n, r in results.policies.items() if not r.hindsight} or results.policies
    return max(fair.items(), key=lambda item: item[1].measures.reward)


def verdict(results: Results) -> list[str]:
    """What the table says."""
    name, best = leader(results)
    sentences = [f"{name} earned the most: {best.measures.reward:.4f} a request."]
    against = best.advantage[BEST_PLAN]
    low, high = against.interval
    plan = f"the best constant plan in hindsight ({results.best_constant_plan.plan})"
    if low > 0.0:
        sentences.append(f"It beat {plan} by {against.mean:.4f} [{low:.4f}, {high:.4f}].")
    elif high < 0.0:
        sentences.append(f"It fell short of {plan} by {-against.mean:.4f} [{-high:.4f}, {-low:.4f}].")
    else:
        sentences.append(f"It cannot be told from {plan}: {against.mean:+.4f} [{low:.4f}, {high:.4f}].")
    return [*sentences, *_against_all(best.measures, results.all_members)]


def _against_all(measures: Measures, whole: Constant) -> list[str]:
    more = measures.accuracy - whole.measures.accuracy
    accuracy = f"{abs(more):.4f} {'more' if more >= 0.0 else 'less'} accuracy"
    if math.isnan(measures.energy_j) or not whole.measures.energy_j > 0.0:
        return [f"Against all members at once: {accuracy}."]
    return [
        f"Against all members at once: {measures.energy_j / whole.measures.energy_j:.0%} of the energy, {accuracy}."
    ]
