"""Health, metrics, the contract itself, and what problems mean."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec
import yaml
from litestar import Controller, MediaType, Request, Response, get
from litestar.params import FromPath

from app import __version__
from app.auth.dependencies import Caller, may
from app.errors import NotFound, Unavailable, subclasses
from app.metrics import MEDIA_TYPE
from app.remedies import REMEDIES
from app.resources import resource
from app.runtime import runtime_of
from app.schemas import service as s
from app.supervision import Supervised

CONTRACT = resource("docs/openapi.yaml")
INDEX = """Annex

/docs           the API's documentation
/openapi.yaml   the contract, for generators
/live           a workspace's stream, to look at
/llms.txt       the guides, for coding agents
/health         health; /health/ready for requests and streams
/api/v1         the API; every call sends Authorization: Bearer <access token or key>
"""
MAX_LAG_SECONDS = 5
DAY = {"Cache-Control": "public, max-age=86400"}


class ProcessController(Controller):
    """What servers and workers serve alike."""

    tags = ("service",)

    @get("/health", operation_id="getHealth", opt=may("public"))
    async def get_health(self) -> s.Health:
        """Tell that the process runs."""
        return s.Health("ok", __version__)

    @get(
        "/metrics",
        operation_id="getMetrics",
        opt=may("operator", response_media_types=["text/plain"]),
    )
    async def get_metrics(
        self, request: Request[Any, Any, Any], principal: Caller
    ) -> Response[bytes]:
        """Tell Prometheus what goes on, of all processes together."""
        return Response(await runtime_of(request).metrics.text(), media_type=MEDIA_TYPE)

    @get(
        "/problems/{code:str}",
        operation_id="getProblem",
        opt=may("public", response_media_types=["text/plain"]),
    )
    async def get_problem(self, code: FromPath[str]) -> Response[str]:
        """Explain a problem's code; the target of `type` in every problem."""
        for kind in subclasses():
            if kind.code == code:
                explained = f"{kind.status} {code}\n\n{kind.title()}\n\n{REMEDIES[code]}\n"
                return Response(explained, media_type=MediaType.TEXT, headers=DAY)
        raise NotFound("There is no problem with this code.")


class ServiceController(Controller):
    tags = ("service",)

    @get("/", operation_id="getIndex", opt=may("public", response_media_types=["text/plain"]))
    async def get_index(self) -> Response[str]:
        """Say where things are."""
        return Response(INDEX, media_type=MediaType.TEXT)

    @get("/health/ready", operation_id="getReadiness", opt=may("public"))
    async def get_readiness(self, request: Request[Any, Any, Any]) -> s.Health:
        """Tell whether requests and streams can be served now."""
        runtime = runtime_of(request)
        tail = runtime.tail
        if runtime.hub.is_leaving or runtime.hub.is_closed:
            raise Unavailable("This server is about to stop; ask another one.")
        if not tail.is_following:
            raise Unavailable("The log is not being followed; streams would stand still.")
        check_tasks(runtime.tasks)
        if tail.lag_seconds > MAX_LAG_SECONDS:
            late = round(tail.lag_seconds)
            raise Unavailable(f"The log is read {late} s late; streams would be as late.")
        await runtime.database.probe.check()
        return s.Health("ok", __version__)

    @get(
        "/openapi.yaml",
        operation_id="getContractYaml",
        opt=may("public", response_media_types=["application/yaml"]),
    )
    async def get_contract_yaml(self) -> Response[bytes]:
        """Serve this contract as YAML."""
        return Response(contract()[0], media_type="application/yaml")

    @get("/openapi.json", operation_id="getContractJson", opt=may("public"))
    async def get_contract_json(self) -> Response[bytes]:
        """Serve this contract as JSON."""
        return Response(contract()[1], media_type=MediaType.JSON)


class WorkerController(Controller):
    """Of `annex worker` alone; docs/operations.md describes it, as the contract is the API's."""

    tags = ("service",)

    @get("/health/ready", operation_id="getReadiness", opt=may("public"))
    async def get_readiness(self, request: Request[Any, Any, Any]) -> s.Health:
        """Tell whether readers and jobs can work now."""
        runtime = runtime_of(request)
        check_tasks(runtime.tasks)
        await runtime.database.probe.check()
        return s.Health("ok", __version__)


def check_tasks(tasks: Sequence[Supervised]) -> None:
    """Raise `Unavailable` with the names of the tasks that are down, if there are any."""
    if down := [task.name for task in tasks if task.is_down]:
        raise Unavailable(f"A background task does not run: {', '.join(down)}.")


@cache
def contract() -> tuple[bytes, bytes]:
    """Read the contract's file once: as it is, and as JSON."""
    content = CONTRACT.read_bytes()
    # Not safe_load: written in Python, it holds every other request up for a second.
    return content, msgspec.json.encode(yaml.load(content, Loader=yaml_loader()))


def yaml_loader() -> Any:
    """Return the fast loader of YAML, or the slow one if PyYAML was built without libyaml."""
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)
