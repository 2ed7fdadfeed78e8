"""The user's BentoML service, wrapped: one method orchestrated, feedback and state added, the rest left alone."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Any, cast

import bentoml
import numpy as np
from _bentoml_impl.serde import JSONSerde
from _bentoml_sdk import Service
from _bentoml_sdk.io_models import IORootModel, IterableResponse
from _bentoml_sdk.method import APIMethod
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml.models import BentoModel
from starlette.applications import Starlette
from starlette.responses import Response

from bandmaster import hosting
from bandmaster.config import Config, read_block
from bandmaster.config_manager import ReadBlock
from bandmaster.core import BandmasterError
from bandmaster.serving.discovery import in_force, staying
from bandmaster.serving.door import Scope, capped
from bandmaster.serving.front import CONTEXT, Front
from bandmaster.serving.learner_service import check_journal, learner_service
from bandmaster.serving.live import Made
from bandmaster.serving.others import depended_on
from bandmaster.serving.signature import Reply, Rows, check_arguments, read_reply

OURS = ("feedback", "bandmaster_learner", "bandmaster_start", "bandmaster_stop", "bandmaster_check")


def orchestrate(service: Any = None, *, config: str | Path = "bentofile.yaml") -> Any:
    """Orchestrate a service from code: under ``@bentoml.service`` or above it.

    ``config`` is a bentofile with ``args: orchestration:``, or a YAML file with ``orchestration:`` at the top,
    relative to the folder of the module that defines the service. Raises ``ConfigError`` when it cannot be used.

        @orchestrate(config="orchestration.yaml")
        @bentoml.service
        class Digits: ...
    """
    if service is None:
        return functools.partial(orchestrate, config=config)
    inner = service.inner if isinstance(service, Service) else service
    read = functools.partial(read_block, Path(inspect.getfile(inner)).parent / config)
    if isinstance(service, Service):
        return wrap(service, read)
    # Under @bentoml.service: the class itself is extended, and BentoML makes the service of it.
    return _extended(service, read, service.__name__)


def wrap(service: Service[Any], read: ReadBlock) -> Service[Any]:
    """The same service with its method orchestrated, by the block that is ``read``, again whenever it has changed. Its
    other methods, mounts, middlewares and settings stay.
    """
    wrapped: Service[Any] = type(service)(
        name=service.name,
        config=_sparing_spans(service),
        inner=_extended(service.inner, read, service.name),
        image=service.image,
        description=service.description,
        path_prefix=service.path_prefix,
        labels=service.labels,
        cmd=service.cmd,
    )
    wrapped.envs = service.envs
    wrapped.mount_apps[:0] = service.mount_apps
    wrapped.middlewares[:0] = service.middlewares
    # BentoML looks there for the name to import the service by.
    wrapped._caller_module = service._caller_module
    return wrapped


def _sparing_spans(service: Service[Any]) -> Any:
    """The service's settings; where nobody has said anything of ``tracing``, without BentoML's spans: it makes four for
    each request, which nobody is sent, and takes as long for them as a decision takes.
    """
    service.inject_config()  # what the environment says is in force only with that
    told = BentoMLContainer.config.services.get()[service.name].get("tracing") or {}
    if any(told.get(key) is not None for key in ("exporter_type", "sample_rate", "excluded_urls")):
        return service.config
    return {**service.config, "tracing": {"excluded_urls": ".*"}}


def _extended(inner: type, read: ReadBlock, name: str) -> type:
    """A subclass of the user's class whose method asks the ensemble."""
    read = staying(read, read()[1])
    config, manager = in_force(read)
    method = getattr(inner, config.method, None)
    if not isinstance(method, APIMethod):
        raise BandmasterError(
            f"{inner.__name__} has no @bentoml.api method {config.method!r}; name the one to orchestrate under method:"
        )
    if taken := [attribute for attribute in OURS if hasattr(inner, attribute)]:
        raise BandmasterError(f"{inner.__name__} has a {taken[0]!r} of its own, which Bandmaster adds; rename it")
    hosted = hosting.host(config)
    rows, reply = _signature(inner, method, config, hosted)
    made = Made(config, hosted, manager, read, method.max_batch_size if method.batchable else 0)
    front = Front(made, rows, reply)
    context_name = method.ctx_param or CONTEXT
    namespace: dict[str, Any] = {
        "__doc__": inner.__doc__,
        "__module__": inner.__module__,
        "bandmaster_learner": bentoml.depends(learner_service(f"{name}Learner", made)),
        "bandmaster_check": bentoml.on_deployment(functools.partial(check_journal, config)),
        "bandmaster_start": bentoml.on_startup(front.start_function()),
        "bandmaster_stop": bentoml.on_shutdown(front.stop_function()),
        config.method: _Orchestrated.of(method, front.predict_function(context_name), context_name),
        "feedback": _feedback(bentoml.api(route="/feedback")(front.feedback_function())),
        "__bentoml_mounted_apps__": [
            *getattr(inner, "__bentoml_mounted_apps__", []),
            (Starlette(routes=front.routes()), "/orchestration", "orchestration"),
        ],
        **depended_on(config, name),
        **{f"bandmaster_model_{m.name}": BentoModel(m.bento_model) for m in config.members if m.bento_model},
    }
    return type(inner.__name__, (inner,), namespace)


def _signature(
    inner: type, method: APIMethod[..., Any], config: Config, hosted: hosting.Hosted
) -> tuple[Rows, Reply | None]:
    name, classes = f"{inner.__name__}.{config.method}", hosted.ensemble.classes
    if not hasattr(inner, "to_rows"):
        check_arguments(method.func, name, hosted.input_shape)
    reply = None
    if not hasattr(inner, "from_answer"):
        reply = read_reply(method.func, name, config.returns, classes, method.output_spec, hosted.ensemble.task)
    return Rows(name, hosted.input_shape, one=reply is not None and reply.one), reply


class _Orchestrated(APIMethod[..., Any]):  # type: ignore[misc]
    """The user's API method, its route, schema and settings, with our function behind them."""

    blocking: bool

    @classmethod
    def of(cls, method: APIMethod[..., Any], function: Any, context_name: str) -> _Orchestrated:
        # Not batchable itself: each request is a decision of its own. Members run several ones' rows at once (Worker).
        copy = cls(
            func=function,
            route=method.route,
            input_spec=capped(method.input_spec),
            output_spec=_sent_at_once(method.output_spec),
            is_task=method.is_task,
        )
        copy.name, copy.doc, copy.ctx_param = method.name, method.doc, context_name
        copy.blocking = not inspect.iscoroutinefunction(method.func)
        return copy

    def _local_call(self, instance: Any) -> Any:
        """As BentoML's, made once for each instance: it would read our function's signature at every request."""
        made = vars(instance)
        if _LOCAL not in made:
            made[_LOCAL] = super()._local_call(instance)
        return made[_LOCAL]

    def __get__(self, instance: Any, owner: type) -> Any:
        """As BentoML's, but the service's other methods keep calling a method that was blocking as one."""
        found = super().__get__(instance, owner)
        proxy = getattr(instance, "__self_proxy__", None) if instance is not None else None
        if proxy is None or not self.blocking:
            return found
        call = functools.partial(proxy.to_sync.call, self.name)
        cast(Any, call).local = cast(Any, found).local
        return call


_LOCAL = "__bandmaster_local__"


def _sent_at_once(spec: type[Any]) -> type[Any]:
    """BentoML's output model ``spec``, its replies in one piece instead of two, each of which goes through all layers
    of the server. One that is no record of the user's own would make its JSON schema at every reply, too, to know its
    media type: a third of what a request costs without Bandmaster.
    """
    plain = issubclass(spec, IORootModel) and spec.mime_type() == JSONSerde.media_type

    async def to_http_response(cls: type[Any], value: Any, serde: Any) -> Response:
        if plain and type(serde) is JSONSerde and isinstance(value, np.ndarray | list | dict | int | float):
            return Response(cls(value).model_dump_json(), media_type=JSONSerde.media_type)
        made = await super(sent_spec, cls).to_http_response(value, serde)
        if not isinstance(made, IterableResponse):
            return cast(Response, made)
        whole = Response(b"".join(made.body_iterator), made.status_code, background=made.background)
        whole.raw_headers = made.raw_headers
        return whole

    more: dict[str, Any] = {"__module__": spec.__module__, "to_http_response": classmethod(to_http_response)}
    if issubclass(spec, IORootModel):
        media_type = spec.mime_type()
        more["mime_type"] = classmethod(lambda cls: media_type)
    sent_spec: Any = type(spec.__name__, (spec,), more)
    return cast(type[Any], sent_spec)


def _feedback(api: APIMethod[..., Any]) -> APIMethod[..., Any]:
    api.input_spec = capped(api.input_spec, Scope.FEEDBACK, instead=b'{"decision_id": "", "reward": 0}')
    return api
