"""What is mounted under ``/orchestration``: the dashboard, the state, and what an admin may do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

import pydantic
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from bandmaster.config_manager import ConfigManager
from bandmaster.core import BandmasterError
from bandmaster.edits import Edit
from bandmaster.guard import Mode
from bandmaster.journal.opening import open_reader, pin_of
from bandmaster.journal.places import locate
from bandmaster.serving.door import HEADERS, BodyTooLarge, Door, Refusal, Scope, read_body
from bandmaster.serving.live import Made
from bandmaster.serving.pages import StatePage
from bandmaster.serving.worker import Worker, worker_number
from bandmaster.visualizer.dashboard import Answer, NotThereError, Views

AskLearner = Callable[..., Awaitable[Any]]
"""Calls a method of the learner by its name. Raises ``Refusal`` where it does not answer."""


def guarded(door: Door, scope: Scope, answer: Answer) -> Answer:
    """The answer for whoever may pass; for others, and where something is wrong, a status and a sentence."""

    async def answered(request: Request) -> Response:
        try:
            request.state.holder = door.enter(request, scope)
            response = await answer(request)
        except Refusal as refusal:
            return refusal.response()
        except BandmasterError as problem:
            status = HTTPStatus.NOT_FOUND if isinstance(problem, NotThereError) else HTTPStatus.BAD_REQUEST
            return Refusal(status, str(problem)).response()
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    return answered


class Desk:
    """One for each worker, which may not have been started yet."""

    def __init__(self, made: Made, door: Door, worker: Callable[[], Worker], ask_learner: AskLearner) -> None:
        self._door, self._worker, self._ask_learner = door, worker, ask_learner
        self._manager: ConfigManager = made.manager
        journal, root = made.config.journal, made.config.root
        self._switch = pin_of(journal, root)
        self._views = Views(locate(journal, root), live=True, read=partial(open_reader, journal, root))

    def routes(self) -> list[BaseRoute]:
        """What is mounted under ``/orchestration``."""
        admin: list[tuple[str, str, Answer]] = [
            ("PUT", "/pin", self._pin),
            ("DELETE", "/pin", self._unpin),
            ("PUT", "/guard", self._guard),
            ("POST", "/edits/revert", self._revert),
            ("DELETE", "/decisions/{id}", self._forget),
        ]
        return [
            Route("/state", guarded(self._door, Scope.DASHBOARD, self._state)),
            *(Route(path, guarded(self._door, Scope.ADMIN, do), methods=[by]) for by, path, do in admin),
            *self._views.routes(lambda answer: guarded(self._door, Scope.DASHBOARD, answer)),
        ]

    async def _state(self, request: Request) -> Response:
        """``GET /orchestration/state``."""
        page: StatePage = await self._ask_learner("state")
        worker = {"number": worker_number(), **self._worker().page(time.time())}
        return JSONResponse({**page.model_dump(), "worker": worker})

    async def _pin(self, request: Request) -> Response:
        """``PUT /orchestration/pin`` has the baseline answer alone."""
        if self._worker().config.guarding is None:
            raise Refusal(HTTPStatus.CONFLICT, "guard: is none, so that there is no baseline to answer; write one")
        why = f"{(await _read(request, _Pinning)).why}, says {request.state.holder}"
        try:
            await asyncio.to_thread(self._switch.set, why)
        except BandmasterError as problem:
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, str(problem)) from None
        return JSONResponse({"pinned": why})

    async def _unpin(self, request: Request) -> Response:
        """``DELETE /orchestration/pin`` has the guard decide again."""
        try:
            was_pinned = await asyncio.to_thread(self._switch.clear)
            return JSONResponse({"pinned": None, "was_pinned": was_pinned})
        except BandmasterError as problem:
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, str(problem)) from None

    async def _guard(self, request: Request) -> Response:
        """``PUT /orchestration/guard`` changes its mode, or its baseline, or both."""
        asked = await _read(request, _Guarding)
        values = {"guard.mode": asked.mode, "guard.baseline": asked.baseline}
        changes = {path: value for path, value in values.items() if value is not None}
        return _edited(await asyncio.to_thread(self._manager.apply, changes, self._author(request), asked.why))

    async def _revert(self, request: Request) -> Response:
        """``POST /orchestration/edits/revert`` has the configuration be what it was at a version."""
        asked = await _read(request, _Reverting)
        return _edited(await asyncio.to_thread(self._manager.revert, asked.version, self._author(request), asked.why))

    def _author(self, request: Request) -> str:
        return f"http:{request.state.holder}"

    async def _forget(self, request: Request) -> Response:
        """``DELETE /orchestration/decisions/{id}``: what was recorded of one decision."""
        decision_id = request.path_params["id"]
        decided_at = self._worker().ids.verify(decision_id)  # by none of our keys any more, perhaps
        there = await self._ask_learner("forget", decision_id, decided_at)
        if not there and decided_at is None:
            raise Refusal(HTTPStatus.NOT_FOUND, "no such decision was made here; send what the answer's header held")
        return JSONResponse({"decision_id": decision_id, "was_there": there})


def _edited(edit: Edit | None) -> Response:
    """What was done; where all that was so already, nothing was."""
    return JSONResponse({"version": edit.version if edit else None})


class _Why(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)
    why: str = pydantic.Field(default="over HTTP", min_length=1, max_length=500)

    @pydantic.field_validator("why")
    @classmethod
    def _on_one_line(cls, why: str) -> str:
        return " ".join(why.split())


class _Pinning(_Why):
    """The body of ``PUT /orchestration/pin``."""


class _Guarding(_Why):
    """The body of ``PUT /orchestration/guard``."""

    mode: Mode | None = None
    baseline: str | None = pydantic.Field(default=None, min_length=1, max_length=1000)

    @pydantic.model_validator(mode="after")
    def _something(self) -> _Guarding:
        if self.mode is None and self.baseline is None:
            raise ValueError("send mode or baseline, or both")
        return self


class _Reverting(_Why):
    """The body of ``POST /orchestration/edits/revert``."""

    version: int = pydantic.Field(ge=0)


Body = TypeVar("Body", bound=_Why)


async def _read(request: Request, kind: type[Body]) -> Body:
    """The body. Raises ``Refusal`` for anything but JSON of that kind."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send content-type: application/json")
    try:
        return kind.model_validate_json(await (await read_body(request)).body())
    except BodyTooLarge as problem:
        raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(problem)) from None
    except ValueError as problem:
        raise Refusal(HTTPStatus.BAD_REQUEST, _wrong(kind, problem)) from None


def _wrong(kind: type[_Why], problem: ValueError) -> str:
    """What a body must be, and what is wrong with this one."""
    fields = ", ".join(kind.model_fields)
    first = problem.errors()[0] if isinstance(problem, pydantic.ValidationError) else {"loc": (), "msg": str(problem)}
    place = ".".join(map(str, first["loc"]))
    return f"the body must be JSON with {fields} and nothing else, why of 1 to 500 characters: {place} {first['msg']}"
