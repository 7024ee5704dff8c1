"""One click ends mails (RFC 8058): whose, which, and by what request."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.worker.post import Post, post

__all__ = ["post"]

MINE = "/api/v1/me/preferences"
FORM = {"List-Unsubscribe": "One-Click"}


async def stored(post: Post) -> dict[str, list[Any]]:
    """Return every row of every table."""
    async with post.callers.server.database.admin() as admin:
        tables = await admin.fetch(
            "select c.oid::regclass::text from pg_class c"
            " where relnamespace = 'annex'::regnamespace and relkind = 'r' order by 1"
        )
        return {t: await admin.fetch(f"select t::text from {t} t order by 1") for (t,) in tables}


@pytest.fixture
async def stranger(post: Post) -> AsyncIterator[httpx.AsyncClient]:
    """A client without any credential or cookie, as a mail program is."""
    async with httpx.AsyncClient(base_url=post.callers.server.url) as client:
        yield client


async def test_one_click_ends_the_mails_of_a_category_and_no_others(
    post: Post, stranger: httpx.AsyncClient
) -> None:
    user, other = await post.member(), await post.member()
    await post.type("test.news")
    await post.type("test.bill", category="billing")
    await post.notify(user, other, type="test.news")
    await post.send()
    token = post.links(post.mailbox.to(user.email)[0])
    assert token not in str(await stored(post))
    for _ in range(2):
        answer = await stranger.post("/unsubscribe", params={"token": token}, data=FORM)
        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers
    found = (await user.client.get(f"{MINE}?workspace={post.tenant.id}")).json()
    assert found["categories"] == {"news": {"email": False}}
    post.mailbox.received.clear()
    await post.notify(user, other, type="test.news")
    await post.notify(user, type="test.bill")
    await post.send()
    subjects = {r.recipients[0]: r.message["Subject"] for r in post.mailbox.received}
    assert subjects == {user.email: "test bill", other.email: "test news"}
    # The items are there all the same; and another workspace's mails go on.
    items = (await user.client.get("/api/v1/me/notifications")).json()["data"]
    assert len(items) == 3


async def test_only_a_post_of_the_form_changes_anything(
    post: Post, stranger: httpx.AsyncClient
) -> None:
    user = await post.member()
    await post.notify(user)
    await post.send()
    token = post.links(post.mailbox.received[0])
    before = await stored(post)
    pages = [await stranger.get("/unsubscribe", params={"token": token}) for _ in range(3)]
    pages.append(await stranger.get("/unsubscribe", params={"token": token[:-1] + "x"}))
    assert (await stranger.head("/unsubscribe", params={"token": token})).status_code == 200
    assert {p.text for p in pages} == {pages[0].text}
    assert token not in pages[0].text
    assert "script" not in pages[0].text
    assert pages[0].headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in pages[0].headers["content-security-policy"]
    refused = [
        await stranger.post("/unsubscribe", params={"token": token}),
        await stranger.post("/unsubscribe", params={"token": token}, json=FORM),
        await stranger.post("/unsubscribe", params={"token": token}, data={"a": "b"}),
        await stranger.post("/unsubscribe", params={"token": token}, data={**FORM, "to": "//x"}),
        await stranger.post("/unsubscribe", data=FORM),
        await stranger.post(
            "/unsubscribe", params={"token": token}, files={"a": ("a", b"x", "text/x; charset=no")}
        ),
        await stranger.post(
            "/unsubscribe", params={"token": token}, data={str(n): "" for n in range(500)}
        ),
    ]
    assert [r.status_code for r in refused] == [415, 415, 400, 400, 400, 400, 413]
    assert await stored(post) == before
    files = {name: (None, value) for name, value in FORM.items()}
    answer = await stranger.post("/unsubscribe", params={"token": token}, files=files)
    assert (answer.status_code, await stored(post) == before) == (200, False)


async def test_a_token_is_its_recipients_alone(post: Post, stranger: httpx.AsyncClient) -> None:
    user = await post.member()
    await post.notify(user)
    await post.send()
    token = post.links(post.mailbox.received[0])
    before = await stored(post)
    swapped = token[:-1] + ("A" if token[-1] != "A" else "B")
    wrong = [swapped, f"annex_ut_{'A' * 43}", f"annex_ut_{uuid4().hex}{uuid4().hex[:11]}"]
    answers = [await stranger.post("/unsubscribe", params={"token": t}, data=FORM) for t in wrong]
    bodies = [{k: v for k, v in a.json().items() if k != "request_id"} for a in answers]
    assert [a.status_code for a in answers] == [404] * 3
    assert bodies == [bodies[0]] * 3
    for other in ("annex_it_" + token[9:], str(user.client.headers["authorization"])[7:], "", "1"):
        answer = await stranger.post("/unsubscribe", params={"token": other}, data=FORM)
        assert answer.status_code == 400
    assert await stored(post) == before
    # Whoever has left has nothing to end, and nobody else's mails end.
    await post.tenant.owner.client.delete(f"{post.tenant.path}/members/{user.user_id}")
    answer = await stranger.post("/unsubscribe", params={"token": token}, data=FORM)
    assert answer.status_code == 200
    async with post.callers.server.database.admin() as admin:
        assert await admin.fetchval("select count(*) from annex.preferences") == 0


async def test_one_click_works_for_whoever_has_chosen_for_as_many_as_they_may(
    post: Post, stranger: httpx.AsyncClient
) -> None:
    user = await post.member()
    mine = f"{MINE}?workspace={post.tenant.id}"
    full = {"categories": {f"c{n}": {"in_app": True} for n in range(100)}}
    assert (await user.client.patch(mine, json=full)).status_code == 200
    assert (
        await user.client.patch(mine, json={"categories": {"d": {"email": True}}})
    ).status_code == 400
    await post.type()
    await post.notify(user)
    await post.send()
    [mail] = post.mailbox.received
    token = post.links(mail)
    answer = await stranger.post("/unsubscribe", params={"token": token}, data=FORM)
    assert answer.status_code == 200
    found = (await user.client.get(mine)).json()["categories"]
    assert (len(found), found["news"]) == (101, {"email": False})
    await post.notify(user)
    await post.send()
    assert len(post.mailbox.received) == 1
    # What was there can still be changed; one more cannot be added.
    changes = {"c1": {"email": False}}, {"d": {"email": True}}, {"c2": None}
    answers = [await user.client.patch(mine, json={"categories": c}) for c in changes]
    assert [a.status_code for a in answers] == [200, 400, 200]
