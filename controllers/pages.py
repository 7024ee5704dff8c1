"""What people and coding agents read: the API's documentation, the live view, the guides."""

import asyncio
import gzip
import re
from base64 import b64encode
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from litestar import Controller, MediaType, Request, Response, get
from litestar.params import FromPath

from app import static
from app.auth.dependencies import may
from app.errors import NotFound
from app.guides import GUIDES, guide, summary
from controllers.service import DAY

FOLDER = Path(static.__file__).parent
ASSETS = {"scalar.js": "text/javascript", "start.js": "text/javascript"}
MARKDOWN = "text/markdown; charset=utf-8"
# The page's script writes styles into the page, so that no hash can name them.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
# Its one script and one style by their hashes; nothing that the script gets can become markup.
LIVE_POLICY = (
    "default-src 'none'; script-src {script}; style-src {style}; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


class PageController(Controller):
    tags = ("service",)

    @get("/docs", operation_id="getDocs", opt=may("public", response_media_types=["text/html"]))
    async def get_docs(self) -> Response[bytes]:
        """Show this contract to people; works without internet."""
        headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", **DAY}
        return Response(asset("index.html"), media_type=MediaType.HTML, headers=headers)

    @get(
        "/docs/assets/{file:str}",
        operation_id="getDocsAsset",
        opt=may("public", response_media_types=["text/javascript"]),
    )
    async def get_docs_asset(
        self, request: Request[Any, Any, Any], file: FromPath[str]
    ) -> Response[bytes]:
        """Serve a script of the documentation page."""
        if file not in ASSETS:
            raise NotFound("There is no such asset.")
        headers = {**DAY, "Vary": "Accept-Encoding"}
        if file == "scalar.js" and "gzip" in request.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            return Response(asset("scalar.js.gz"), media_type=ASSETS[file], headers=headers)
        # In a thread, because the first call unpacks the file, which would block the loop.
        content = await asyncio.to_thread(asset, file)
        return Response(content, media_type=ASSETS[file], headers=headers)

    @get("/live", operation_id="getLiveView", opt=may("public", response_media_types=["text/html"]))
    async def get_live_view(self) -> Response[str]:
        """Show a workspace's stream to people, to connect, cut and resume it."""
        page, policy = live_view()
        headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}
        return Response(page, media_type=MediaType.HTML, headers=headers)

    @get(
        "/llms.txt", operation_id="getLlms", opt=may("public", response_media_types=["text/plain"])
    )
    async def get_llms(self) -> Response[str]:
        """List the guides for coding agents."""
        return Response(summary(), media_type=MediaType.TEXT, headers=DAY)

    @get(
        "/guides/{file:str}",
        operation_id="getGuide",
        opt=may("public", response_media_types=["text/markdown"]),
    )
    async def get_guide(self, file: FromPath[str]) -> Response[str]:
        """Serve one guide as Markdown."""
        name = file.removesuffix(".md")
        if name not in GUIDES or not file.endswith(".md"):
            raise NotFound("There is no such guide; /llms.txt lists them.")
        return Response(guide(name), media_type=MARKDOWN, headers=DAY)


@cache
def live_view() -> tuple[str, str]:
    """Read the live view's page once; returns it and its Content-Security-Policy."""
    page = (FOLDER / "live.html").read_text()
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
    """Read one of the documentation page's files once; the large one is unpacked once, too."""
    if file == "scalar.js":
        return gzip.decompress(asset("scalar.js.gz"))
    return (FOLDER / "docs" / file).read_bytes()
