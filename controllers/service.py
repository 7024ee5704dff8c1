"""Health, the contract itself, its documentation, the live view, and what problems mean."""

import asyncio
import re
from base64 import b64encode
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import yaml
from litestar import Controller, MediaType, Request, Response, get
from litestar.params import FromPath
from swagger_ui_bundle import swagger_ui_path  # type: ignore[import-untyped]

from app import __version__, static
from app.auth.dependencies import Caller, may
from app.errors import NotFound, Unavailable, subclasses
from app.metrics import MEDIA_TYPE
from app.remedies import REMEDIES
from app.resources import resource
from app.runtime import runtime_of
from app.schemas import service as s

CONTRACT = resource("docs/openapi.yaml")
ASSETS = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
    "start.js": "text/javascript",
}
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Annex API</title>
<link rel="icon" href="/docs/assets/favicon-32x32.png">
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
</head>
<body>
<div id="ui"></div>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script src="/docs/assets/start.js"></script>
</body>
</html>
"""
# A file of its own, so that the page needs no inline script and its policy can forbid them.
START = """SwaggerUIBundle({
  url: "/openapi.json", dom_id: "#ui", deepLinking: true, persistAuthorization: true,
  validatorUrl: null,
});
"""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
# Its one script and one style by their hashes; nothing that the script gets can become markup.
LIVE_POLICY = (
    "default-src 'none'; script-src {script}; style-src {style}; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
LIVE = Path(static.__file__).parent / "live.html"
INDEX = """Annex

/docs           the API's documentation
/openapi.yaml   the contract, for generators
/live           a workspace's stream, to look at
/health         health; /health/ready for requests and streams
/api/v1         the API; every call sends Authorization: Bearer <access token or key>
"""
MAX_LAG_SECONDS = 5
DAY = {"Cache-Control": "public, max-age=86400"}


class ServiceController(Controller):
    tags = ("service",)

    @get("/", operation_id="getIndex", opt=may("public", response_media_types=["text/plain"]))
    async def get_index(self) -> Response[str]:
        """Say where things are."""
        return Response(INDEX, media_type=MediaType.TEXT)

    @get("/health", operation_id="getHealth", opt=may("public"))
    async def get_health(self) -> s.Health:
        """Tell that the process runs."""
        return s.Health("ok", __version__)

    @get("/health/ready", operation_id="getReadiness", opt=may("public"))
    async def get_readiness(self, request: Request[Any, Any, Any]) -> s.Health:
        """Tell whether requests and streams can be served now."""
        runtime = runtime_of(request)
        tail = runtime.tail
        if runtime.hub.is_closed:
            raise Unavailable("This server is about to stop; ask another one.")
        if not tail.is_following:
            raise Unavailable("The log is not being followed; streams would stand still.")
        if down := [task.name for task in runtime.tasks if task.is_down]:
            raise Unavailable(f"A background task does not run: {', '.join(down)}.")
        if tail.lag_seconds > MAX_LAG_SECONDS:
            late = round(tail.lag_seconds)
            raise Unavailable(f"The log is read {late} s late; streams would be as late.")
        try:
            async with asyncio.timeout(2), runtime.database.api.lend() as driver:
                await driver.fetchval("select 1")
        except TimeoutError:
            raise Unavailable("The database does not answer; try again in a moment.") from None
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

    @get("/docs", operation_id="getDocs", opt=may("public", response_media_types=["text/html"]))
    async def get_docs(self) -> Response[str]:
        """Show this contract to people; works without internet."""
        headers = {"Content-Security-Policy": POLICY, **DAY}
        return Response(PAGE, media_type=MediaType.HTML, headers=headers)

    @get(
        "/docs/assets/{file:str}",
        operation_id="getDocsAsset",
        opt=may("public", response_media_types=[*ASSETS.values()]),
    )
    async def get_docs_asset(self, file: FromPath[str]) -> Response[bytes]:
        """Serve a script or style of the documentation page."""
        if file not in ASSETS:
            raise NotFound("There is no such asset.")
        return Response(asset(file), media_type=ASSETS[file], headers=DAY)

    @get("/live", operation_id="getLiveView", opt=may("public", response_media_types=["text/html"]))
    async def get_live_view(self) -> Response[str]:
        """Show a workspace's stream to people, to connect, cut and resume it."""
        page, policy = live_view()
        headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}
        return Response(page, media_type=MediaType.HTML, headers=headers)

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


@cache
def contract() -> tuple[bytes, bytes]:
    """Read the contract's file once: as it is, and as JSON."""
    content = CONTRACT.read_bytes()
    return content, msgspec.json.encode(yaml.safe_load(content))


@cache
def live_view() -> tuple[str, str]:
    """Read the live view's page once; returns it and its Content-Security-Policy."""
    page = LIVE.read_text()
    hashes = {
        tag: " ".join(
            f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'"
            for content in re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        )
        for tag in ("script", "style")
    }
    return page, LIVE_POLICY.format(**hashes)


@cache
def asset(file: str) -> bytes:
    """Read one of the documentation page's files once."""
    return START.encode() if file == "start.js" else (Path(swagger_ui_path) / file).read_bytes()
