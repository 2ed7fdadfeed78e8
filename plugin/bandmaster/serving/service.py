"""The user's BentoML service, wrapped: one method orchestrated, feedback and state added, the rest left alone."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

import bentoml
import pydantic
from _bentoml_sdk import Service
from _bentoml_sdk.method import APIMethod
from bentoml.exceptions import BentoMLException, InvalidArgument
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse
from starlette.routing import Route

from bandmaster import build
from bandmaster.config import Config, load
from bandmaster.core import BandmasterError, Request
from bandmaster.features import features_of
from bandmaster.plans import Catalogue
from bandmaster.serving.door import capped, feedback_refusal
from bandmaster.serving.learning import LearningLoop, Receipt, Report, StatePage
from bandmaster.serving.signature import Signature, read_signature
from bandmaster.serving.worker import Worker, worker_number

_log = logging.getLogger("bandmaster.serving")

DECISION_HEADER = "x-orchestration-decision"
TICK_S = 0.05
LEARNER_TIMEOUT_S = 10.0


class NotFound(BentoMLException):
    error_code = HTTPStatus.NOT_FOUND


class NobodyAnswered(BentoMLException):
    error_code = HTTPStatus.SERVICE_UNAVAILABLE


class LearnerAway(BentoMLException):
    error_code = HTTPStatus.SERVICE_UNAVAILABLE


class Feedback(pydantic.BaseModel):
    """What came of one decision: the true label (a list for several rows), or a reward in [0, 1]. One of them."""

    model_config = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False, json_schema_extra={"examples": [
        {"decision_id": "AY9…", "label": 7}, {"decision_id": "AY9…", "reward": 0.8},
    ]})  # fmt: skip
    decision_id: str = pydantic.Field(min_length=1, max_length=64)
    label: pydantic.StrictInt | pydantic.StrictStr | list[pydantic.StrictInt | pydantic.StrictStr] | None = None
    reward: float | None = pydantic.Field(default=None, ge=0.0, le=1.0, strict=True)

    @pydantic.model_validator(mode="after")
    def _exactly_one(self) -> Feedback:
        if (self.label is None) == (self.reward is None):
            raise ValueError("send either label or reward, exactly one of them")
        return self


def orchestrate(service: Any = None, *, config: str | Path = "bentofile.yaml") -> Any:
    """Orchestrate a service from code: under ``@bentoml.service`` or above it.

    ``config`` is a bentofile with ``args: orchestration:``, or a YAML file with ``orchestration:`` at the top,
    relative to the folder of the module that defines the service. Raises ``ConfigError`` when it cannot be used.

        @orchestrate(config="orchestration.yaml")
        @bentoml.service
        class Digits: ...
    """
    if service is None:
        return lambda s: orchestrate(s, config=config)
    inner = service.inner if isinstance(service, Service) else service
    path = Path(inspect.getfile(inner)).parent / config
    settings = load(path)
    if isinstance(service, Service):
        return wrap(service, settings)
    # Under @bentoml.service: the class itself is extended, and BentoML makes the service of it.
    return _extended(service, settings, getattr(service, settings.method, None), f"{service.__name__}Learner")


def wrap(service: Service[Any], config: Config) -> Service[Any]:
    """The same service with its method orchestrated. Its other methods, mounts, middlewares and settings stay."""
    method = service.apis.get(config.method)
    extended = _extended(service.inner, config, method, f"{service.name}Learner")
    wrapped: Service[Any] = bentoml.service(name=service.name, image=service.image, **cast(Any, service.config))(
        extended
    )
    wrapped.envs, wrapped.labels, wrapped.path_prefix = service.envs, service.labels, service.path_prefix
    wrapped.mount_apps[:0] = [m for m in service.mount_apps if m not in wrapped.mount_apps]
    wrapped.middlewares[:0] = service.middlewares
    return wrapped


def _extended(inner: type, config: Config, method: Any, learner_name: str) -> type:
    """A subclass of the user's class whose method asks the ensemble."""
    if not isinstance(method, APIMethod):
        raise BandmasterError(
            f"{inner.__name__} has no @bentoml.api method {config.method!r}; name the one to orchestrate under method:"
        )
    hosted = build.host(config)
    plans = build.catalogue(config, hosted.ensemble)
    signature = None
    if not hasattr(inner, "from_answer"):
        signature = read_signature(
            method.func,
            f"{inner.__name__}.{config.method}",
            config.returns,
            hosted.ensemble.classes,
            hosted.input_shape,
        )
    learner_service = _learner_service(learner_name, config, hosted, plans)
    front = _Front(config, hosted, plans, signature)
    namespace: dict[str, Any] = {
        "__doc__": inner.__doc__,
        "__module__": inner.__module__,
        "bandmaster_learner": bentoml.depends(learner_service),
        config.method: _api_like(method, front.predict_function(method)),
        "feedback": _capped_api(front.feedback_function()),
        "bandmaster_start": bentoml.on_startup(front.start_function()),
        "bandmaster_stop": bentoml.on_shutdown(front.stop_function()),
        "__bentoml_mounted_apps__": [
            *getattr(inner, "__bentoml_mounted_apps__", []),
            (Starlette(routes=[Route("/state", front.state_page)]), "/orchestration", "orchestration"),
        ],
    }
    return type(inner.__name__, (inner,), namespace)


def _api_like(method: APIMethod[..., Any], function: Callable[..., Any]) -> APIMethod[..., Any]:
    """An API method with another function behind the user's own route, schema and settings."""
    copy: APIMethod[..., Any] = APIMethod(
        func=function,
        route=method.route,
        input_spec=capped(method.input_spec),
        output_spec=method.output_spec,
        batchable=method.batchable,
        batch_dim=method.batch_dim,
        max_batch_size=method.max_batch_size,
        max_latency_ms=method.max_latency_ms,
        is_task=method.is_task,
    )
    copy.name, copy.doc, copy.ctx_param = method.name, method.doc, method.ctx_param or "ctx"
    return copy


def _capped_api(function: Callable[..., Any]) -> Any:
    api = bentoml.api(route="/feedback")(function)
    api.input_spec = capped(api.input_spec)
    return api


class _Front:
    """What happens between HTTP and the orchestrator in one server process."""

    def __init__(self, config: Config, hosted: build.Hosted, plans: Catalogue, signature: Signature | None) -> None:
        self._config, self._hosted, self._plans = config, hosted, plans
        self._signature = signature
        self._worker: Worker | None = None
        self._learner: Any = None
        self._following: asyncio.Task[None] | None = None

    def start_function(self) -> Callable[[Any], Any]:
        async def bandmaster_start(service: Any) -> None:
            self._worker = Worker(self._config, self._hosted, self._plans, worker_number())
            self._learner = service.bandmaster_learner.to_async
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

        return bandmaster_stop

    def predict_function(self, method: APIMethod[..., Any]) -> Callable[..., Any]:
        """The user's method, answered by the ensemble."""

        async def predict(service: Any, *args: Any, **kwargs: Any) -> Any:
            context = kwargs.pop(method.ctx_param or "ctx", None)
            rows = self._rows(service, args, kwargs)
            request = Request(rows=rows, features=features_of(rows), at=time.time())
            assert self._worker is not None  # BentoML starts the service before it answers
            decision, answer = await self._worker.answer(request)
            if context is not None:
                context.response.headers[DECISION_HEADER] = decision.id
            if self._signature is None:
                return service.from_answer(answer, self._hosted.ensemble.classes)
            try:
                return self._signature.reply(answer)
            except BandmasterError as problem:
                raise NobodyAnswered(str(problem)) from None

        return predict

    def _rows(self, service: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        reader = self._signature or Signature(
            self._config.method, "label", None, self._hosted.ensemble.classes, self._hosted.input_shape
        )
        try:
            if hasattr(service, "to_rows"):
                return reader.checked(service.to_rows(*args, **kwargs))
            return reader.rows(args, kwargs)
        except BandmasterError as problem:
            raise InvalidArgument(str(problem)) from None

    def feedback_function(self) -> Callable[..., Any]:
        async def feedback(
            service: Any, report: Feedback | list[Feedback], /, ctx: bentoml.Context
        ) -> Receipt | list[Receipt]:
            """Report what came of one decision, or of many: the true label, or a reward in [0, 1]."""
            if (refusal := feedback_refusal(ctx.request)) is not None:
                return JSONResponse({"error": refusal}, status_code=401)  # type: ignore[return-value]
            many = isinstance(report, list)
            reports = [await self._verified(r) for r in (report if isinstance(report, list) else [report])]
            if not reports:
                raise InvalidArgument("the list holds no feedback; send at least one")
            receipts = await self._settle(reports)
            if not many and receipts[0].status == "refused":
                raise InvalidArgument(str(receipts[0].why))
            if not many and receipts[0].status == "early":
                ctx.response.status_code = HTTPStatus.ACCEPTED
            return receipts if many else receipts[0]

        return feedback

    async def _settle(self, reports: list[Report]) -> list[Receipt]:
        try:
            async with asyncio.timeout(LEARNER_TIMEOUT_S):
                return cast(list[Receipt], await self._learner.settle(reports))
        except (TimeoutError, OSError, BentoMLException) as problem:
            raise LearnerAway(f"the learner did not take the feedback, send it again: {problem}") from problem

    async def _verified(self, report: Feedback) -> Report:
        """A report whose id this service signed, its label as class indices. Raises what becomes a 4xx."""
        assert self._worker is not None  # BentoML starts the service before it answers
        if self._worker.ids.verify(report.decision_id) is None:
            await self._learner.reject()
            raise NotFound(f"no decision {report.decision_id!r} was made here; send the header {DECISION_HEADER} back")
        if report.label is None:
            return Report(decision_id=report.decision_id, at=time.time(), reward=report.reward)
        labels = report.label if isinstance(report.label, list) else [report.label]
        try:
            indices = tuple(self._hosted.ensemble.class_index(label) for label in labels)
        except BandmasterError as problem:
            raise InvalidArgument(f"label: {problem}") from None
        return Report(decision_id=report.decision_id, at=time.time(), labels=indices)

    async def state_page(self, request: HttpRequest) -> JSONResponse:
        """``GET /orchestration/state``."""
        try:
            async with asyncio.timeout(LEARNER_TIMEOUT_S):
                page: StatePage = await self._learner.state()
        except (TimeoutError, OSError, BentoMLException) as problem:
            return JSONResponse({"error": f"the learner does not answer: {problem}"}, status_code=503)
        assert self._worker is not None  # BentoML starts the service before it answers
        return JSONResponse({**page.model_dump(), "worker": {"snapshot_version": self._worker.snapshot}})


def _learner_service(name: str, config: Config, hosted: build.Hosted, plans: Catalogue) -> Service[Any]:
    """The one learner, as a BentoML service of its own that the user's service depends on."""

    class Learner:
        @bentoml.on_startup
        async def start(self) -> None:
            self._loop = LearningLoop(config, hosted.ensemble, plans)
            self._ticking = asyncio.create_task(self._tick())

        async def _tick(self) -> None:
            while True:
                try:
                    self._loop.tick()
                except BandmasterError:
                    _log.exception("the learner goes on after")
                await asyncio.sleep(TICK_S)

        @bentoml.on_shutdown
        async def stop(self) -> None:
            self._ticking.cancel()
            self._loop.close()

        @bentoml.api
        async def settle(self, reports: list[Report]) -> list[Receipt]:
            return self._loop.settle(reports)

        @bentoml.api
        async def reject(self) -> None:
            self._loop.reject()

        @bentoml.api
        async def state(self) -> StatePage:
            return self._loop.state()

    Learner.__name__ = Learner.__qualname__ = name
    return bentoml.service(
        name=name,
        workers=1,
        traffic={"timeout": int(LEARNER_TIMEOUT_S) + 5},
        # BentoML's client drops calls in flight after 100 requests unless told otherwise.
        runner_connection={"max_requests": 10**9, "max_age": 10**9},
    )(Learner)
