"""What the members' answers say about the true class: likelihoods learned online, combined into a posterior.

Naive Bayes over what each member says (which class, how sure), with two departures. Counts are shrunk towards what
the member does in general, so that a hundred outcomes suffice. And as members err together, ``s`` of them count for
``s**(1 - overlap)`` independent ones (``combine.posterior``).
"""

from __future__ import annotations

from itertools import chain

import msgspec
import numpy as np

from bandmaster.core import CONFIDENCE_EDGES, BoolArray, Evidence, FloatArray, IntArray, Said

BUCKETS = len(CONFIDENCE_EDGES) + 1

DENSE = 128
"""Up to so many classes, which class is taken for which is learned for every pair; beyond, for each class alone."""


def bent_odds(expected: FloatArray, usual: FloatArray) -> FloatArray | None:
    """By what factors (their logarithms) being right, and being wrong, is likelier here than usual: (…, 2, M).

    ``expected`` and ``usual`` (…, M) are how often members are right here and of late; ``None`` where they are empty.
    """
    if not expected.shape[-1]:
        return None
    here, ever = (np.minimum(np.maximum(right, 0.02), 0.98) for right in (expected, usual))
    odds = np.empty((*here.shape[:-1], 2, here.shape[-1]))
    np.divide(here, ever, out=odds[..., 0, :])
    np.divide(1.0 - here, 1.0 - ever, out=odds[..., 1, :])
    return np.log(odds, out=odds)


class Belief:
    """P(what a member says | the true class) for each of M members and C classes, from labelled outcomes.

    Every count is shrunk towards the member's general habits, its *pools*: how often it is right, which classes it
    says when it is wrong, how sure it is then. The pools themselves are renewed now and then, not at every outcome.
    """

    SHRINK, SHRINK_BUCKETS = 3.0, 5.0
    """How many outcomes of a class the general habits count for."""

    PRIOR_HABITS = np.array([2.0, 0.8, 0.2])
    """Right, wrong, abstaining: what a member is taken to have done before it was seen."""

    STRANGE = 3.0
    """By how much, in log-likelihood, a former regime must explain what a member does better than none: 20 to 1."""

    SHELF = 3
    """Former regimes of a member that are remembered."""

    RENEW = 25
    """Outcomes between two renewals of the pools, once there are many."""

    def __init__(self, members: int, classes: int) -> None:
        self.members, self.classes = members, classes
        self._d, self._every = np.arange(classes), np.arange(members)
        self._said = np.zeros((members, classes + 1, classes if classes <= DENSE else 2))
        self._sure = np.zeros((2, members, BUCKETS, classes))  # right: by true class; wrong: by what was said
        self._seen = np.zeros((members, classes))
        self._shelf: list[list[Belief]] = [[] for _ in range(members)]  # each of one member
        self.overlap = 0.5
        self.learned = 0
        self._renewed = -1
        self._renew()

    # ---- Reading ---------------------------------------------------------------------------------------------

    def log_likelihood(self, said: Said, odds: FloatArray | None = None) -> FloatArray:
        """log P(said | class), (n, M, C).

        Bent by ``odds``, as ``bent_odds`` gives them, (2, M), or (n, 2, M) where they differ from row to row: where
        members are right oftener or more seldom on such requests than usual.
        """
        label, bucket = said.label, said.bucket
        out = self._log_said(self._every, label)
        gain, doubt = self._log_sure[:, self._every, bucket, label]  # 0 for abstentions
        shown = np.minimum(label, self.classes - 1)
        if odds is not None:
            right, wrong = odds[..., 0, :], odds[..., 1, :]
            answered = label < self.classes
            gain, doubt = gain + (right - wrong) * answered, doubt + wrong * answered
        out += doubt[..., None]
        out[np.arange(len(label))[:, None], self._every, shown] += gain
        return out

    def evidence(self, said: Said, mix: FloatArray, odds: FloatArray | None = None) -> Evidence:
        """Of what was said, where classes' shares are ``mix`` (C,) at present; ``odds`` as for ``log_likelihood``."""
        return Evidence(self.log_likelihood(said, odds), np.log(mix), self.overlap)

    def _log_said(self, member: IntArray, label: IntArray) -> FloatArray:
        """log P(label | class) without how sure it was, (n, M, C)."""
        if self.classes <= DENSE:
            return self._log_table[member, label]
        out = self._log_table[member, label, 0][..., None] + self._log_wrong[member]
        row, m = np.nonzero(label < self.classes)
        out[row, m, label[row, m]] = self._log_table[m, label[row, m], 1]
        return np.asarray(out)

    # ---- Learning --------------------------------------------------------------------------------------------

    def learn(self, said: Said, known: BoolArray, truth: IntArray, weights: FloatArray | None = None) -> None:
        """Learn one request's rows: what was said (n, M), by whom it is known (n, M), and the labels (n,); of each
        member as of ``weights`` (M,) rows (1).
        """
        member, label, true = self._count(said, known, truth, weights)
        self.learned += len(truth)
        if self.learned - self._renewed >= min(self.RENEW, 1 + self.learned // 20):
            self._renew()
        else:
            self._refresh(member, true, label)

    def _count(
        self, said: Said, known: BoolArray, truth: IntArray, weights: FloatArray | None = None
    ) -> tuple[IntArray, IntArray, IntArray]:
        """Count rows; return the members, what they said and the classes, one entry an answer."""
        row, member = np.nonzero(known)
        label, bucket, true = said.label[row, member], said.bucket[row, member], truth[row]
        right, answered = label == true, label < self.classes
        count = np.ones(len(member)) if weights is None else weights[member]
        np.add.at(self._seen, (member, true), count)
        np.add.at(self._said, (member, label, true if self.classes <= DENSE else right.astype(np.int64)), count)
        sure = np.where(right, 0, 1)[answered], member[answered], bucket[answered], label[answered]
        np.add.at(self._sure, sure, count[answered])
        return member, label, true

    def relearn(self, member: int, said: Said, truth: IntArray) -> None:
        """``member`` is not what it was: put what was learned of it by, and learn it from rows since it changed.

        What it said to them is (n,), as are the labels. Where what was put by earlier explains them better than having
        learned nothing would, that is taken up again: a regime that returns is known at once.
        """
        tried = [Belief(1, self.classes), *self._shelf[member]]
        self._shelf[member] = [*self._shelf[member], self._alone(member)][-self.SHELF :]
        merit = [regime._explains(said, truth) for regime in tried]
        merit[0] += self.STRANGE
        self._take(member, tried[int(np.argmax(merit))])
        every = np.zeros((len(truth), self.members), dtype=np.int64)
        label, bucket, known = every.copy(), every.copy(), every.astype(np.bool_)
        label[:, member], bucket[:, member], known[:, member] = said.label, said.bucket, True
        self._count(Said(label, bucket), known, truth)
        self._renew()

    def likelier(self, member: int, label: IntArray, truth: IntArray) -> FloatArray:
        """By how much likelier, in logarithms, every regime of ``member`` that was put by makes it than the present one
        that it said ``label`` (n,) to rows of these classes (n,): (K, n).
        """
        now = self._log_label(member, label, truth)
        then = [regime._log_label(0, label, truth) for regime in self._shelf[member]]
        return np.array(then).reshape(-1, len(truth)) - now

    def _log_label(self, member: int, label: IntArray, truth: IntArray) -> FloatArray:
        """log P(label | class) of what ``member`` said (n,) to rows of these classes, (n,)."""
        table = self._log_said(self._every[member : member + 1], label[:, None])
        return np.asarray(table[np.arange(len(truth)), 0, truth])

    def _explains(self, said: Said, truth: IntArray) -> float:
        """log P of all that the only member said (n,) to rows of these classes."""
        likely = self.log_likelihood(Said(said.label[:, None], said.bucket[:, None]))
        return float(likely[np.arange(len(truth)), 0, truth].sum())

    def _alone(self, member: int) -> Belief:
        """What is believed of ``member``, as a belief of one."""
        alone = Belief(1, self.classes)
        alone._said[0], alone._sure[:, 0] = self._said[member], self._sure[:, member]
        alone._seen[0] = self._seen[member]
        alone._renew()
        return alone

    def _take(self, member: int, alone: Belief) -> None:
        """Believe of ``member`` what a belief of one does; the tables are the caller's to renew."""
        self._said[member], self._sure[:, member] = alone._said[0], alone._sure[:, 0]
        self._seen[member] = alone._seen[0]

    def _renew(self) -> None:
        """Renew the pools, and every table from them."""
        self._renewed = self.learned
        dense = self.classes <= DENSE
        hits = self._said[:, self._d, self._d] if dense else self._said[:, : self.classes, 1]
        said = self._said.sum(axis=2)
        misses = np.maximum(said[:, : self.classes] - hits, 0.0)
        habits = np.stack([hits.sum(axis=1), misses.sum(axis=1), said[:, self.classes]], axis=1) + self.PRIOR_HABITS
        self._habits = habits / habits.sum(axis=1, keepdims=True)
        instead = misses + 0.3
        self._instead = instead / instead.sum(axis=1, keepdims=True)
        sure = self._sure.sum(axis=3) + 0.5
        self._usual = sure / sure.sum(axis=2, keepdims=True)
        self._tables()

    def _tables(self) -> None:
        """Every table, from counts and pools."""
        sure = np.log(self._shrunk_sure(slice(None), slice(None)))
        self._log_sure = np.zeros((*sure.shape[:-1], self.classes + 1))
        self._log_sure[0, ..., :-1], self._log_sure[1, ..., :-1] = sure[0] - sure[1], sure[1]
        if self.classes <= DENSE:
            self._base = self._general()
            self._log_table = np.log(self._shrunk(slice(None), slice(None)))
        else:
            self._refresh_sparse()

    def _refresh(self, member: IntArray, true: IntArray, label: IntArray) -> None:
        """Renew only the entries of the tables that one outcome has touched."""
        if self.classes > DENSE:
            self._refresh_sparse()
        else:
            self._log_table[member, :, true] = np.log(self._shrunk(member, true))
        answered = label < self.classes
        member, label = member[answered], label[answered]
        right, wrong = np.log(self._shrunk_sure(member, label))
        self._log_sure[0, member, :, label], self._log_sure[1, member, :, label] = right - wrong, wrong

    def _general(self) -> FloatArray:
        """P(label | class) of a member that treats all classes alike, (M, C + 1, C)."""
        wrong = self._instead * self._habits[:, 1:2]
        by_label = np.concatenate([wrong, self._habits[:, 2:]], axis=1)
        base = np.repeat(by_label[:, :, None], self.classes, axis=2)
        base[:, self._d, self._d] = self._habits[:, :1]
        return np.asarray(base / base.sum(axis=1, keepdims=True))

    def _shrunk(self, member: slice | IntArray, true: slice | IntArray) -> FloatArray:
        count, base = self._said[member, :, true], self._base[member, :, true]
        seen = self._seen[member, true]
        seen = seen[:, None, :] if isinstance(member, slice) else seen[:, None]
        return np.asarray((count + self.SHRINK * base) / (seen + self.SHRINK))

    def _shrunk_sure(self, member: slice | IntArray, of: slice | IntArray) -> FloatArray:
        """P(bucket | right, class) and P(bucket | wrong, what was said): (2, M, B, C), or (2, k, B) for k pairs."""
        count, usual = self._sure[:, member, :, of], self.SHRINK_BUCKETS * self._usual[:, member]
        if isinstance(member, slice):
            usual = usual[..., None]
        else:
            count = count.swapaxes(0, 1)  # numpy puts the axis of indices that stand apart first
        return np.asarray((count + usual) / (count.sum(axis=2, keepdims=True) + self.SHRINK_BUCKETS))

    def _refresh_sparse(self) -> None:
        """With very many classes: how often each is recognised, and how often each is said instead of another."""
        right = self._said[:, : self.classes, 1]
        recall = (right + self.SHRINK * self._habits[:, :1]) / (self._seen + self.SHRINK)
        wrong = np.concatenate([self._instead * self._habits[:, 1:2], self._habits[:, 2:]], axis=1)
        self._log_table = np.log(
            np.stack([wrong, np.concatenate([recall, np.ones((self.members, 1))], axis=1)], axis=2)
        )
        self._log_wrong = np.log1p(-np.minimum(recall, 0.999)) - np.log1p(-np.minimum(self._habits[:, :1], 0.999))

    # ---- Without its own outcome -----------------------------------------------------------------------------

    def leave_out(self, likelihood: FloatArray, said: Said, truth: IntArray) -> FloatArray:
        """``likelihood`` (n, M, C) as it would be had each row's own outcome not been learned, where that counts most:
        in the confusion with its own class.
        """
        if self.classes > DENSE:
            return likelihood
        every, true = np.arange(self.members), truth[:, None]
        count, base = self._said[every, said.label, true], self._base[every, said.label, true]
        seen = self._seen[every, true]
        without = (np.maximum(count - 1.0, 0.0) + self.SHRINK * base) / (np.maximum(seen - 1.0, 0.0) + self.SHRINK)
        out = likelihood.copy()
        out[np.arange(len(truth))[:, None], every, true] += np.log(without) - self._log_table[every, said.label, true]
        return out

    def resample(self, member: int, truth: IntArray, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Draw what ``member`` would say to rows of these classes: labels and buckets (n,)."""
        if self.classes <= DENSE:
            of = np.exp(self._log_table[member])[:, truth]
        else:
            of = np.exp(self._log_table[member, :, 0][:, None] + self._log_wrong[member, truth])
            of[truth, np.arange(len(truth))] = np.exp(self._log_table[member, truth, 1])
        label = _draw(of, rng)
        gain, doubt = self._log_sure[:, member, :, label].transpose(1, 2, 0)
        return label, np.where(label < self.classes, _draw(np.exp(doubt + gain * (label == truth)), rng), 0)

    # ---- Keeping ---------------------------------------------------------------------------------------------

    def dump(self) -> bytes:
        kept = (self._said, self._sure, self._seen, self._habits, self._instead, self._usual)
        arrays = [a.astype(np.float64).tobytes() for a in kept]
        shelf = [[regime.dump() for regime in member] for member in self._shelf]
        return msgspec.msgpack.encode(_Dump(self.learned, self._renewed, self.overlap, arrays, shelf))

    def load(self, dumped: bytes) -> None:
        """Restore what ``dump`` gave. Raises ``ValueError`` on anything else."""
        try:
            found = msgspec.msgpack.decode(dumped, type=_Dump)
        except msgspec.DecodeError as problem:
            raise ValueError(f"no belief: {problem}") from None
        kept = (self._said, self._sure, self._seen, self._habits, self._instead, self._usual)
        if len(found.arrays) != len(kept) or any(len(b) != a.nbytes for a, b in zip(kept, found.arrays, strict=True)):
            raise ValueError("a belief of other members or classes")
        arrays = [np.frombuffer(b).reshape(a.shape).copy() for a, b in zip(kept, found.arrays, strict=True)]
        if len(found.shelf) != self.members:
            raise ValueError("former regimes of other members")
        shelf = [[Belief(1, self.classes) for _ in regimes] for regimes in found.shelf]
        for regime, kept_of_it in zip(chain(*shelf), chain(*found.shelf), strict=True):
            regime.load(kept_of_it)
        if not all(np.isfinite(a).all() and (a >= 0.0).all() for a in arrays):
            raise ValueError("a belief's counts are finite and not negative")
        self._said, self._sure, self._seen = arrays[:3]
        self._shelf = shelf
        self._habits, self._instead, self._usual = arrays[3:]
        self.learned, self._renewed, self.overlap = found.learned, found.renewed, found.overlap
        self._tables()


class _Dump(msgspec.Struct, frozen=True):
    learned: int
    renewed: int
    overlap: float
    arrays: list[bytes]
    shelf: list[list[bytes]]


def _draw(probabilities: FloatArray, rng: np.random.Generator) -> IntArray:
    """One index a column of ``probabilities`` (K, n), which need not sum to 1."""
    upto = probabilities.cumsum(axis=0)
    return np.asarray((upto < rng.random(probabilities.shape[1]) * upto[-1]).sum(axis=0))
