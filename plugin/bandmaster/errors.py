"""By how much members' values err: what each is usually off by at present, and how their errors go together.

What ``belief`` is to classes, this is to values. A plan with learned weights takes from each value what its member is
expected to be off by, and averages what is left by the inverse of the errors' covariance.
"""

from __future__ import annotations

import msgspec
import numpy as np

from bandmaster.core import BoolArray, Errors, FloatArray


class ErrorBelief:
    """Every member's bias (M,), however fast it moves, and the covariance (M, M) of what it is off by beyond that.

    The bias is followed by several exponentially discounted means, each with a memory of its own, weighted by how well
    each foresaw the last hundred or so errors, as ``estimators.LabelMix`` does. Where a member did not run, its error
    is taken to be what the others' errors let expect of it, so that all of them are corrected at once.
    """

    MEMORIES = np.array([3.0, 12.0, 50.0, 250.0, 1000.0, 8000.0])
    KEEP = 0.99

    COVARIANCE = 400.0
    """Rows on which all errors were known that the covariance looks back on."""

    FEW = 30.0
    """Rows that the covariance is worth after an alarm."""

    REACH, FAR = 5.0, 9.0
    """No surprise counts for more than so many deviations; in a memory's merit, for more than so many variances."""

    def __init__(self, members: int) -> None:
        self.members = members
        self._means = np.zeros((len(self.MEMORIES), members))
        self._merit = np.zeros(len(self.MEMORIES))
        self._learned = np.zeros(members)  # rows on which a member's error was known
        self._rows = 0.0  # rows on which all were
        self._moments = np.zeros((members, members))
        self._errors = self._believed()

    @property
    def now(self) -> Errors:
        return self._errors

    def learn(self, errors: FloatArray) -> None:
        """Learn one request's errors (n, M), value less truth, NaN where unknown."""
        for row in errors:
            if not (known := ~np.isnan(row)).all():
                self._follow(np.where(known, row, self._errors.expected(row)), known)
                continue
            self._follow(row, known)
        self._errors = self._believed()

    def forget(self) -> None:
        """The world has changed: the next few rows decide how errors go together."""
        self._rows = min(self._rows, self.FEW)

    def _follow(self, error: FloatArray, known: BoolArray) -> None:
        """Move towards one row's ``error`` (M,), of which only those ``known`` say how well it was foreseen."""
        now = self._believed()
        deviation = np.sqrt(np.diag(now.covariance))
        surprise = error - now.bias
        if self._rows >= self.members:
            surprise = np.clip(surprise, -self.REACH * deviation, self.REACH * deviation)
        error = now.bias + surprise
        if known.any() and self._rows:
            off = ((error - self._means)[:, known] / np.maximum(deviation[known], 1e-12)) ** 2
            self._merit = self.KEEP * self._merit - 0.5 * np.minimum(off, self.FAR).mean(axis=1)
        self._learned += known
        rate = 1.0 / np.minimum(np.maximum(self._learned, 1.0), self.MEMORIES[:, None])
        self._means += np.where(known | (self._learned > 0.0), rate, 0.0) * (error - self._means)
        if known.all():
            self._rows += 1.0
            share = 1.0 / min(self._rows, self.COVARIANCE)
            self._moments += share * (np.outer(surprise, surprise) - self._moments)

    def _believed(self) -> Errors:
        weight = np.exp(self._merit - self._merit.max())
        bias = weight @ self._means / weight.sum()
        variance = np.maximum(np.diag(self._moments), 1e-12)
        # Of few rows only the variances can be told; what goes together is trusted as it is seen oftener.
        rows = min(self._rows, self.COVARIANCE)
        trust = rows / (rows + self.members)
        return Errors(bias, trust * self._moments + (1.0 - trust) * np.diag(variance) + 1e-12 * np.eye(self.members))

    def dump(self) -> bytes:
        parts = (self._means, self._merit, self._learned, self._moments)
        return msgspec.msgpack.encode(_Dump(self._rows, [part.tobytes() for part in parts]))

    def load(self, dumped: bytes) -> None:
        """Restore what ``dump`` gave. Raises ``ValueError`` on anything else."""
        try:
            found = msgspec.msgpack.decode(dumped, type=_Dump)
        except msgspec.DecodeError as problem:
            raise ValueError(f"no errors: {problem}") from None
        parts = (self._means, self._merit, self._learned, self._moments)
        if [len(b) for b in found.arrays] != [a.nbytes for a in parts]:
            raise ValueError(f"errors of other members than these {self.members}")
        arrays = [np.frombuffer(b).reshape(a.shape).copy() for a, b in zip(parts, found.arrays, strict=True)]
        if not all(np.isfinite(a).all() for a in arrays):
            raise ValueError("errors are finite")
        for part, array in zip(parts, arrays, strict=True):
            part[...] = array
        self._rows = found.rows
        self._errors = self._believed()


class _Dump(msgspec.Struct, frozen=True):
    rows: float
    arrays: list[bytes]
