"""Every journal passes the contract suite that ships with the package, and no journal escapes it."""

import importlib
import inspect
import itertools
import pkgutil
from collections.abc import Callable
from pathlib import Path

import pytest

import bandmaster.journal
from bandmaster.core import Journal
from bandmaster.journal.keys import Keys
from bandmaster.journal.memory import MemoryJournal
from bandmaster.journal.sqlite import SqliteJournal
from bandmaster.testing import CHECKED_WINDOW_S, JOURNAL_RULES, check_journal


def fresh_sqlite(folder: Path) -> Callable[[], Journal]:
    number = itertools.count()
    return lambda: SqliteJournal(folder / f"{next(number)}.db", Keys(b"k" * 32), CHECKED_WINDOW_S)


SUITE: dict[type, Callable[[Path], Callable[[], Journal]]] = {
    MemoryJournal: lambda folder: lambda: MemoryJournal(CHECKED_WINDOW_S),
    SqliteJournal: fresh_sqlite,
}


@pytest.mark.parametrize("kind", SUITE)
@pytest.mark.parametrize("rule", JOURNAL_RULES, ids=lambda rule: rule.__name__.strip("_"))
def test_every_journal_keeps_every_rule(kind, rule, tmp_path):
    journal = SUITE[kind](tmp_path)()
    rule(journal)
    journal.close()


def test_no_journal_escapes_the_suite():
    found = [module.name for module in pkgutil.iter_modules(bandmaster.journal.__path__, "bandmaster.journal.")]
    found.remove("bandmaster.journal.postgres")  # tests/postgres runs the suite over it
    modules = [importlib.import_module(name) for name in found]
    classes = {c for m in modules for _, c in inspect.getmembers(m, inspect.isclass)}
    assert {c for c in classes if issubclass(c, Journal) and not inspect.isabstract(c)} - {Journal} == set(SUITE)


class Forgetful(MemoryJournal):
    def settle(self, decision_id, outcome):
        self._settled.discard(decision_id)
        return super().settle(decision_id, outcome)


class Eager(MemoryJournal):
    def record(self, decision, answer):
        super().record(decision, answer)
        self.due()


class Reversed(MemoryJournal):
    def since(self, seq):
        return iter(list(super().since(seq))[::-1])


@pytest.mark.parametrize("broken", [Forgetful, Eager, Reversed, lambda _: MemoryJournal()])
def test_the_suite_notices_a_broken_journal(broken):
    with pytest.raises(AssertionError, match=r"\w+ \w+"):
        check_journal(lambda: broken(CHECKED_WINDOW_S))
