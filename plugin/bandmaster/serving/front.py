"""What happens between HTTP and the orchestrator in one server process."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Annotated, Any, cast

import aiohttp
import bentoml
import numpy as np
import pydantic
from bentoml.exceptions import BentoMLException
from starlette.routing import BaseRoute

from bandmaster.config import Config
from bandmaster.contract import Contract
from bandmaster.core import (
    DEFAULT_PROFILE,
    NO_ANSWER,
    Answer,
    Array,
    BandmasterError,
    Ensemble,
    FloatArray,
    Request,
)
from bandmaster.features import features_of_requests
from bandmaster.serving.desk import Desk
from bandmaster.serving.door import HEADERS, Door, Refusal, Scope
from bandmaster.serving.learner_service import LEARNER_TIMEOUT_S
from bandmaster.serving.live import Made
from bandmaster.serving.others import Others, keep_fresh, retried
from bandmaster.serving.pages import Receipt, Report
from bandmaster.serving.signature import Reply, Rows
from bandmaster.serving.worker import Worker, worker_count, worker_number

_log = logging.getLogger("bandmaster.front")

DECISION_HEADER = "x-orchestration-decision"
FALLBACK_HEADER = "x-orchestration-fallback"
PROFILE_HEADER = "x-orchestration-profile"
DEADLINE_HEADER = "x-orchestration-deadline-ms"
MOST_REPORTS = 500
"""The most outcomes that one post may report: the learner takes them in one go, and others wait."""

SETTLED_AT_ONCE = 4
"""So many posts the learner has at a time, of all workers, but one of each at least: they keep it busy, and are settled
well within ``LEARNER_TIMEOUT_S``, however long they are. Those after them wait with their worker, in turn. Its server
takes one new connection in a turn of its event loop: of posts that came all at once some would wait there for long,
overtaken by others that find a connection free.
"""

TURN_S = 10.0
"""So long a post waits for its turn; it then has all of ``LEARNER_TIMEOUT_S``. Of one that is given up before, the
learner does not hear: it has no time for settling what nobody is told of.
"""

_NOTHING = np.zeros(0)

CONTEXT = "bandmaster_context"
"""The parameter in which BentoML passes its context to a method that has none of its own for it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for by its headers: a profile to be judged by, ``deadline_s`` to be answered within."""

    profile: str = DEFAULT_PROFILE
    deadline_s: float | None = None


def asked_by(headers: Mapping[str, str], contract: Contract) -> Asked:
    """Read the headers. Raises ``Refusal`` for a profile that the contract does not have, and what is no deadline."""
    profile, deadline = headers.get(PROFILE_HEADER, DEFAULT_PROFILE), headers.get(DEADLINE_HEADER)
    try:
        contract.under(profile)
    except BandmasterError as problem:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"{PROFILE_HEADER}: {problem}") from None
    if deadline is None:
        return Asked(profile)
    # float() would take "1_0" and "nan" too.
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", deadline) or float(deadline) == 0.0:
        raise Refusal(
            HTTPStatus.BAD_REQUEST,
            f"{DEADLINE_HEADER}: {deadline[:64]!r} is no number of milliseconds above 0; send 50",
        )
    return Asked(profile, float(deadline) / 1000.0)


def filled(answer: Answer, fallback: int | float | str, ensemble: Ensemble) -> Answer:
    """The answer with the ``fallback``, a class or in regression a value, for the rows that nobody answered; their
    confidence stays 0.
    """
    lack = answer.labels == NO_ANSWER
    if ensemble.regression:
        scores = np.where(lack[:, None], float(fallback), answer.scores)
        return replace(answer, scores=scores, labels=np.zeros_like(answer.labels))
    return replace(answer, labels=np.where(lack, ensemble.class_index(fallback), answer.labels))


class Feedback(pydantic.BaseModel):
    """What came of one decision: the true label (a list for several rows), or a reward in [0, 1]. One of them.

    In regression a label is a number.
    """

    model_config = pydantic.ConfigDict(
        extra="forbid", allow_inf_nan=False, json_schema_extra={"example": {"decision_id": "AY9…", "label": 7}}
    )
    decision_id: str
    label: (
        pydantic.StrictInt
        | pydantic.StrictFloat
        | pydantic.StrictStr
        | Annotated[list[pydantic.StrictInt | pydantic.StrictFloat | pydantic.StrictStr], pydantic.Field(min_length=1)]
        | None
    ) = None
    reward: float | None = pydantic.Field(default=None, ge=0.0, le=1.0, strict=True)

    @pydantic.model_validator(mode="after")
    def _exactly_one(self) -> Feedback:
        if (self.label is None) == (self.reward is None):
            raise ValueError("send either label or reward, exactly one of them")
        return self


# Discriminated, so that an error speaks of what was sent; and BentoML's OpenAPI page fails on an undiscriminated union.
_one_or_many = pydantic.Discriminator(lambda body: "many" if isinstance(body, list) else "one")
Reports = Annotated[
    Annotated[Feedback, pydantic.Tag("one")]
    | Annotated[list[Feedback], pydantic.Tag("many"), pydantic.Field(min_length=1, max_length=MOST_REPORTS)],
    _one_or_many,
]
Receipts = Annotated[
    Annotated[Receipt, pydantic.Tag("one")] | Annotated[list[Receipt], pydantic.Tag("many")], _one_or_many
]


class Front:
    """Holds this process's worker. Its ``…_function`` methods give functions to hang on the user's class."""

    def __init__(self, made: Made, rows: Rows, reply: Reply | None) -> None:
        self._made, self._hosted = made, made.hosted  # whose classes and rows no change of the configuration changes
        self._rows, self._reply = rows, reply
        self._door = Door(made.config.feedback.rate)
        self._desk = Desk(made, self._door, lambda: self.worker, self._ask_learner)
        self._worker: Worker | None = None
        self._learner: Any = None
        self._in_process_learner: Any = None
        self._following: asyncio.Task[None] | None = None
        self._judged: set[asyncio.Task[None]] = set()
        self._settling = asyncio.Semaphore(SETTLED_AT_ONCE)

    @property
    def worker(self) -> Worker:
        assert self._worker is not None  # BentoML starts the service before it answers
        return self._worker

    @property
    def _config(self) -> Config:
        return self.worker.config

    def start_function(self) -> Callable[[Any], Any]:
        async def bandmaster_start(service: Any) -> None:
            learner = service.bandmaster_learner
            if hasattr(learner, "start"):
                # No proxy: under --development and in tests BentoML makes the learner here, and does not start it.
                self._in_process_learner = learner
                await learner.start()
            else:
                keep_fresh(learner)
            self._learner = learner.to_async
            self._settling = asyncio.Semaphore(max(SETTLED_AT_ONCE // worker_count(), 1))
            others = Others(service, self._made.config)
            self._worker = Worker(self._made, worker_number(), worker_count(), others, self._features)
            self._following = asyncio.create_task(self._worker.follow())
            # What lives now lives for ever: keep the collector from walking it in the middle of a request.
            gc.collect()
            gc.freeze()

        return bandmaster_start

    def stop_function(self) -> Callable[[Any], Any]:
        async def bandmaster_stop(service: Any) -> None:
            if self._worker is not None and self._following is not None:
                self._following.cancel()
                await self._worker.close()
            if self._in_process_learner is not None:
                await self._in_process_learner.stop()

        return bandmaster_stop

    def predict_function(self, context_name: str) -> Callable[..., Any]:
        """The user's method, answered by the ensemble."""

        async def predict(service: Any, *args: Any, **kwargs: Any) -> Any:
            context: bentoml.Context | None = kwargs.pop(context_name, None)
            try:
                return await self._predict(service, args, kwargs, context)
            except Refusal as refusal:
                if context is None:  # called in process, not over HTTP
                    raise
                return refusal.response(context)

        return predict

    async def _predict(
        self, service: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], context: bentoml.Context | None
    ) -> Any:
        rows = self._to_rows(service, args, kwargs)
        asked = Asked() if context is None else asked_by(context.request.headers, self._config.contract)
        # What a policy may look at is found when the worker takes its turn.
        request = Request(rows, _NOTHING, time.time(), profile=asked.profile, deadline_s=asked.deadline_s)
        decision, answer = await self.worker.answer(request)
        if decision.probed and self._config.contract.by_consensus:
            judged = asyncio.create_task(self._leave_to_consensus(decision.id, request.at))
            self._judged.add(judged)  # held, or the loop might drop it half way
            judged.add_done_callback(self._judged.discard)
        if context is not None:
            context.response.headers[DECISION_HEADER] = decision.id
        fallback = self._config.faults.fallback
        if fallback is not None and (answer.labels == NO_ANSWER).any():
            answer = filled(answer, fallback, self._hosted.ensemble)
            if context is not None:
                context.response.headers[FALLBACK_HEADER] = "1"
        if self._reply is None:
            return service.from_answer(answer, self._hosted.ensemble.classes)
        try:
            return self._reply(answer)
        except BandmasterError as problem:
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, str(problem)) from None

    async def _leave_to_consensus(self, decision_id: str, at: float) -> None:
        """Nobody will report anything: the learner is told so, and waits for the probe's answers."""
        try:
            await self._have_settled([Report(decision_id=decision_id, at=at, consensus=True)])
        except Refusal as refusal:
            _log.warning("a probe is not learned from: %s", refusal)

    def _features(self, requests: Sequence[Array]) -> list[FloatArray]:
        # A model that takes rows of any width gets a summary of them: the policy's features must keep theirs.
        summarise = None in self._hosted.input_shape
        return features_of_requests(requests, summarise=summarise, allowed=self._config.features)

    def _to_rows(self, service: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Array:
        try:
            if hasattr(service, "to_rows"):
                return self._rows.checked(service.to_rows(*args, **kwargs))
            return self._rows.of_arguments(args, kwargs)
        except (BandmasterError, ValueError) as problem:  # ValueError is how to_rows says what it cannot use
            raise Refusal(HTTPStatus.BAD_REQUEST, str(problem)) from None

    def feedback_function(self) -> Callable[..., Any]:
        async def feedback(service: Any, report: Reports, /, ctx: bentoml.Context) -> Receipts:
            """Report what came of one decision, or of many: the true label, or a reward in [0, 1].

            A list is refused whole where one of it is not acceptable. After a 503 send all of it again.
            """
            many = report if isinstance(report, list) else [report]
            try:
                source = self._door.enter(ctx.request, Scope.FEEDBACK, len(many))
                receipts = await self._settle(many, source)
            except Refusal as refusal:
                return cast(Receipts, refusal.response(ctx))
            ctx.response.headers.update(HEADERS)
            if isinstance(report, list):
                return receipts
            (receipt,) = receipts
            ctx.response.status_code = HTTPStatus.ACCEPTED if receipt.status == "early" else HTTPStatus.OK
            return receipt

        return feedback

    async def _settle(self, feedback: list[Feedback], source: str) -> list[Receipt]:
        decided = [self.worker.ids.verify(each.decision_id) for each in feedback]
        for each, at in zip(feedback, decided, strict=True):
            if at is None:
                await self._ask_learner("reject")
                shown = each.decision_id if len(each.decision_id) <= 64 else f"{each.decision_id[:64]}…"
                raise Refusal(
                    HTTPStatus.NOT_FOUND,
                    f"no decision {shown!r} was made here; send what the answer's header {DECISION_HEADER} held",
                )
        reports = [
            self._report(each).model_copy(update={"source": source, "decided_at": at})
            for each, at in zip(feedback, decided, strict=True)
        ]
        receipts = await self._have_settled(reports)
        for receipt in receipts:
            if receipt.why is not None:
                raise Refusal(HTTPStatus.BAD_REQUEST, receipt.why)
        return receipts

    def _report(self, feedback: Feedback) -> Report:
        """The feedback with its labels as class indices, or values."""
        if feedback.label is None:
            return Report(decision_id=feedback.decision_id, at=time.time(), reward=feedback.reward)
        labels = feedback.label if isinstance(feedback.label, list) else [feedback.label]
        try:
            found = tuple(self._label(label) for label in labels)
        except BandmasterError as problem:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"label: {problem}") from None
        return Report(decision_id=feedback.decision_id, at=time.time(), labels=found)

    def _label(self, label: int | float | str) -> int | float:
        """A label as an outcome has it. Raises ``BandmasterError`` where it is none."""
        if not self._hosted.ensemble.regression:
            return self._hosted.ensemble.class_index(label)
        try:
            if isinstance(label, str):
                raise ValueError
            return float(label)
        except (ValueError, OverflowError):
            raise BandmasterError(f"{str(label)[:64]!r} is no number; this is a regression, send the value") from None

    async def _have_settled(self, reports: list[Report]) -> list[Receipt]:
        """Have the learner settle a post once it is this one's turn. Raises ``Refusal``."""
        async with self._turn():
            return cast(list[Receipt], await self._ask_learner("settle", reports))

    async def _ask_learner(self, what: str, *arguments: Any) -> Any:
        try:
            async with asyncio.timeout(LEARNER_TIMEOUT_S):
                return await retried(getattr(self._learner, what), *arguments)
        except (TimeoutError, aiohttp.ClientError, BentoMLException, BandmasterError) as problem:
            why = str(problem) or type(problem).__name__
            raise Refusal(
                HTTPStatus.SERVICE_UNAVAILABLE, f"the learner does not answer ({why}); send it again in a few seconds"
            ) from problem

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Raises ``Refusal`` where it does not come in time."""
        try:
            async with asyncio.timeout(TURN_S):
                await self._settling.acquire()
        except TimeoutError:
            sentence = "more feedback comes than the learner takes; send it again in a few seconds"
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, sentence, TURN_S) from None
        try:
            yield
        finally:
            self._settling.release()

    def routes(self) -> list[BaseRoute]:
        """What is mounted under ``/orchestration``."""
        return self._desk.routes()
