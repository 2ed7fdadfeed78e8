"""Where each member is good: how often it is right on requests with such features."""

from __future__ import annotations

import msgspec
import numpy as np

from bandmaster.core import FloatArray
from bandmaster.estimators import ForgettingRegression, RandomFourierFeatures, Slope, Standardiser, WindowedMean

CHANCE = 0.5
"""How often a member is taken to be right before anything was seen."""


class Competence:
    """Every member's accuracy regressed on the request's features and random Fourier features of them, believed as far
    as what it foretells comes true.

    With a long memory, as where a member is good changes slowly.
    """

    MEMORY = 2000.0
    FOURIER = 40

    def __init__(self, members: int, features: int) -> None:
        self.features = features
        self._standard = Standardiser(features)
        self._fourier = RandomFourierFeatures(features, self.FOURIER if features else 0)
        self._regression = ForgettingRegression(
            np.full(members, CHANCE), features + self._fourier.size, memory=self.MEMORY, ridge=3.0
        )
        self._usual = WindowedMean(members, window=self.MEMORY, prior=CHANCE)
        self._slope = Slope(window=self.MEMORY)

    def expected(self, features: FloatArray) -> FloatArray:
        """How often each member is right on requests with such ``features`` (…, d), (…, M) in [0, 1]."""
        bent = self._fourier(self._standard(features))
        usual = self.usual
        return np.asarray(usual + self._slope.value * (self._foretold(bent) - usual))

    def _foretold(self, bent: FloatArray) -> FloatArray:
        """What the regression makes of it, (…, M) in [0, 1]; bolder than what comes true."""
        return np.asarray(np.minimum(np.maximum(self._regression.predict(bent), 0.0), 1.0))

    @property
    def usual(self) -> FloatArray:
        """What was expected of each member on the requests of late, on average: (M,) in [0, 1]."""
        return self._usual.value

    def learn(self, features: FloatArray, correct: FloatArray | None) -> None:
        """Learn one request's features (d,) and each member's accuracy on it (M,), NaN where unknown; ``None`` where
        nothing is known.
        """
        bent = self._fourier(self._standard(features))
        if correct is not None:
            usual, known = self.usual, ~np.isnan(correct)
            self._slope.update((self._foretold(bent) - usual)[known], (correct - usual)[known])
            self._regression.learn(bent, correct)
        self._usual.update(self._foretold(bent))
        self._standard.learn(features)

    def dump(self) -> bytes:
        parts = [self._standard.dump(), self._regression.dump()]
        return msgspec.msgpack.encode(_Dump(self.features, parts, self._usual.dump(), self._slope.dump()))

    @classmethod
    def of(cls, dumped: bytes, members: int) -> Competence:
        """Restore what ``dump`` gave. Raises ``ValueError`` on anything else."""
        try:
            found = msgspec.msgpack.decode(dumped, type=_Dump)
        except msgspec.DecodeError as problem:
            raise ValueError(f"no competence: {problem}") from None
        standard = Standardiser.of(found.parts[0]) if len(found.parts) == 2 else None
        if standard is None or standard.size != found.features:
            raise ValueError(f"no competence over {found.features} features")
        competence = cls(members, found.features)
        competence._standard = standard
        competence._regression.load(found.parts[1])
        competence._usual.load(found.usual)
        competence._slope.load(found.slope)
        return competence


class _Dump(msgspec.Struct, frozen=True):
    features: int
    parts: list[bytes]
    usual: list[list[float]]
    slope: list[float]
