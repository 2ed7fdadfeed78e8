"""Contract suites for implementations of our protocols, ours and yours, and small valid records to feed them."""

from bandmaster.testing.journals import (
    CHECKED_WINDOW_S,
    JOURNAL_RULES,
    check_journal,
    same,
    sample_answer,
    sample_decision,
)
from bandmaster.testing.members import MEMBER_RULES, check_member
from bandmaster.testing.policies import (
    POLICY_RULES,
    check_policy,
    sample_experiences,
    sample_learner,
    sample_log,
    sample_orchestrator,
)

__all__ = [
    "CHECKED_WINDOW_S",
    "JOURNAL_RULES",
    "MEMBER_RULES",
    "POLICY_RULES",
    "check_journal",
    "check_member",
    "check_policy",
    "same",
    "sample_answer",
    "sample_decision",
    "sample_experiences",
    "sample_learner",
    "sample_log",
    "sample_orchestrator",
]
