"""An answer that is written at once, and what is left to Litestar."""

from typing import Any

import msgspec
import pytest
from litestar import MediaType
from litestar.background_tasks import BackgroundTask

from app.http.responses import StructResponse


class Told(msgspec.Struct):
    n: int = 1


async def sent(response: StructResponse[Any], **given: Any) -> tuple[int, list[Any], bytes]:
    """Send an answer; returns its status, headers and body."""
    messages = list[Any]()

    async def send(message: Any) -> None:
        messages.append(message)

    scope: Any = {"type": "http", "method": "GET"}
    await response.to_asgi_response(None, None, **given)(scope, None, send)
    body = b"".join(m.get("body", b"") for m in messages[1:])
    return messages[0]["status"], messages[0]["headers"], body


async def test_a_struct_is_written_at_once() -> None:
    headers = {"ETag": "1"}
    answer = await sent(
        StructResponse(Told(), headers=headers, media_type=MediaType.JSON),
        status_code=201,
        headers={},
        cookies=frozenset(),
        media_type=MediaType.JSON,
    )
    length = [(b"content-type", b"application/json"), (b"content-length", b"7")]
    assert answer == (201, [*length, (b"etag", b"1")], b'{"n":1}')


async def test_what_is_not_usual_is_not_lost() -> None:
    response = StructResponse(Told())
    response.set_cookie("a", "b")
    _, headers, body = await sent(response)
    assert b"set-cookie" in dict(headers)
    assert body == b'{"n":1}'
    _, headers, _ = await sent(StructResponse(Told()), headers={"x-own": "y"})
    assert dict(headers)[b"x-own"] == b"y"
    for answer in (
        await sent(StructResponse(Told(), media_type="application/x+json")),
        await sent(StructResponse(Told()), media_type="application/x+json"),
    ):
        assert dict(answer[1])[b"content-type"].startswith(b"application/x+json")
    done = list[int]()
    for task in (BackgroundTask(done.append, 1), None):
        given = {} if task else {"background": BackgroundTask(done.append, 2)}
        await sent(StructResponse(Told(), background=task), **given)
    assert done == [1, 2]
    with pytest.raises(TypeError):
        StructResponse(Told(), cookie="a")  # type: ignore[call-arg]
