"""The ledger balances, whatever is reported how often and in which order."""

from tests.faults.feedback_storm import stormed


def test_the_ledger_balances_to_the_last_report(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.faults.feedback_storm.WINDOW_S", 8.0)
    monkeypatch.setattr("tests.faults.feedback_storm.ROUND", 200)
    found = stormed(4000, tmp_path, seed=1)
    assert found.reports > 4000
    assert found.holds, found
