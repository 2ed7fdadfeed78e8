"""The bandit learns which plan is good where, from delayed labels, and better than what does not look."""

from dataclasses import replace

import numpy as np

from bandmaster.core import Joined, Outcome
from bandmaster.journal.memory import MemoryJournal
from bandmaster.learner import profile_figures
from bandmaster.orchestrator import settle
from bandmaster.policies.bandit import BanditPolicy
from bandmaster.policies.traditional import RandomPolicy, ScoringPolicy
from bandmaster.testing import sample_experiences, sample_learner, sample_log
from bandmaster.testing.policies import sample_decisions, sample_orchestrator


def mean_reward(make, log, seed=0):
    learner = sample_learner(make, log, probe_share=0.05)
    return np.mean([e.reward.value for e in sample_experiences(learner, log, seed)][200:])


def test_the_bandit_uses_context_that_scoring_cannot_see():
    figures = profile_figures(sample_log(1).ensemble)
    makers = {
        "bandit": lambda plans, contract, belief: BanditPolicy(plans, contract, figures, belief),
        "scoring": lambda plans, contract, belief: ScoringPolicy(plans, contract, figures),
        "random": lambda plans, contract, belief: RandomPolicy(plans),
    }
    logs = [sample_log(1000, seed) for seed in range(3)]
    bandit, scoring, uniform = ([mean_reward(make, log, s) for s, log in enumerate(logs)] for make in makers.values())
    # When written, of five seeds, the differences to scoring were .096 to .127 (spread .012), to random .127 to .173
    # (spread .018): more than five spreads above what is asked on average. Seeds are fixed besides.
    assert min(np.subtract(bandit, scoring)) > 0.0
    assert min(np.subtract(bandit, uniform)) > 0.05


def test_a_tag_is_context_too_whatever_text_it_holds():
    log = sample_log(1500, 0)
    home = np.where(log.features[:, 0] > 0, "kind=a|b\nc:1", "kind='é'")
    tagged = replace(log, features=np.zeros((1500, 0)), tags=tuple((str(tag),) for tag in home))
    blind = replace(tagged, tags=())
    figures = profile_figures(log.ensemble)

    def earned(world):
        return mean_reward(lambda plans, contract, belief: BanditPolicy(plans, contract, figures, belief), world)

    # Seeds are fixed; when written the tag was worth .13.
    assert earned(tagged) > earned(blind) + 0.02


def earned_with_few_labels(log, seed, *, awaits):
    """The mean reward after the first thousand requests, where a label comes for one in ten, a hundred late."""
    figures = profile_figures(log.ensemble)
    learner = sample_learner(lambda plans, contract, belief: BanditPolicy(plans, contract, figures, belief), log)
    if not awaits:
        learner.manager.notice = lambda *probe: None
    journal, ids, rewards = MemoryJournal(), [], []
    orchestrator = sample_orchestrator(learner, log, journal, seed=seed)
    for i, (decision, answer) in enumerate(sample_decisions(learner, orchestrator, log)):
        judged = Outcome(float(i), (int(log.truth[i]),))
        ids.append(decision.id)
        rewards.append(learner.reward(Joined(0, decision, answer, judged)).value)
        if i >= 100 and i % 10 == 0:
            settle(journal, learner, ids[i - 100], Outcome(float(i), (int(log.truth[i - 100]),)))
    return np.mean(rewards[1000:])


def test_where_labels_are_scarce_probes_teach_before_theirs_have_come():
    logs = [sample_log(3000, seed, members=6) for seed in range(5)]
    with_them, without = (
        [earned_with_few_labels(log, seed, awaits=awaits) for seed, log in enumerate(logs)] for awaits in (True, False)
    )
    # When written .007 to .048, the mean 3.0 of its standard errors: a false alarm in 700. Seeds are fixed besides.
    assert np.mean(np.subtract(with_them, without)) > 0.0
