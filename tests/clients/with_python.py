"""The flow of flow.ts, with what openapi-python-client generates; typed strictly."""

import os

from annex_client import AuthenticatedClient
from annex_client.api.api_keys import verify_api_key
from annex_client.api.events import (
    list_events,
    publish_cloud_event,
    publish_event,
    publish_events,
)
from annex_client.api.preferences import get_my_preferences
from annex_client.api.workspaces import create_workspace, get_workspace, update_workspace
from annex_client.models import (
    ApiKeyVerdict,
    ApiKeyVerification,
    CloudEvent,
    CloudEventSpecversion,
    Event,
    EventCreate,
    EventPage,
    Preferences,
    Problem,
    ProblemCode,
    PublishedEvent,
    PublishedEvents,
    Workspace,
    WorkspaceCreate,
    WorkspacePatch,
)
from annex_client.types import UNSET, Unset

TOKEN, WS = os.environ["ANNEX_TOKEN"], os.environ["ANNEX_WORKSPACE"]
asked: list[str] = []
client = AuthenticatedClient(
    os.environ["ANNEX_URL"],
    TOKEN,
    httpx_args={"event_hooks": {"request": [lambda request: asked.append(str(request.url))]}},
)

one = publish_event.sync(WS, client=client, body=EventCreate(type_="invoice.paid"))
assert isinstance(one, PublishedEvent), one
batch = publish_events.sync(WS, client=client, body=[EventCreate("a.b"), EventCreate("c.d")])
assert isinstance(batch, PublishedEvents), batch
order = CloudEvent(CloudEventSpecversion.VALUE_0, "order-1", "/shop", "order.placed")
cloud = publish_cloud_event.sync(WS, client=client, body=order)
assert isinstance(cloud, PublishedEvent), cloud
again = publish_cloud_event.sync(WS, client=client, body=order)
assert isinstance(again, PublishedEvent), again
assert (cloud.is_duplicate, again.is_duplicate) == (False, True)

found: list[Event] = []
cursor: str | Unset = UNSET
while True:
    page = list_events.sync(WS, client=client, limit=2, cursor=cursor)
    assert isinstance(page, EventPage), page
    found += page.data
    if page.page.next_ is None:
        break
    cursor = page.page.next_
sent = [one.id, *(e.id for e in batch.data), cloud.id]
assert [e.id for e in found if e.id in sent] == sent[::-1]

shown = get_workspace.sync_detailed(WS, client=client)
etag = shown.headers["ETag"]
renamed = update_workspace.sync(
    WS, client=client, body=WorkspacePatch(name="Renamed"), if_match=etag
)
assert isinstance(renamed, Workspace), renamed
late = update_workspace.sync(WS, client=client, body=WorkspacePatch(name="Late"), if_match=etag)
assert isinstance(late, Problem), late
assert late.code is ProblemCode.PRECONDITION_FAILED

# What may be null is not taken for the thing.
chosen = get_my_preferences.sync(client=client)
assert isinstance(chosen, Preferences), chosen
assert chosen.quiet_hours is None
unknown = verify_api_key.sync(client=client, body=ApiKeyVerification("annex_sk_unknown"))
assert isinstance(unknown, ApiKeyVerdict), unknown
assert unknown.key is None

once = [
    create_workspace.sync_detailed(
        client=client, body=WorkspaceCreate("Once"), idempotency_key="k-1"
    )
    for _ in range(2)
]
assert [a.status_code for a in once] == [201, 201]
assert once[1].headers["Idempotent-Replayed"] == "true"
assert once[0].parsed == once[1].parsed
assert len(asked) > 8
assert not any(TOKEN in url for url in asked)
