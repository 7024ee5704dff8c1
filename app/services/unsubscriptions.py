from sqlalchemy import bindparam, func, select
from sqlalchemy.types import LargeBinary

from app.database.pools import Pool
from app.database.statements import Compiled
from app.services.invitations import hash_of
from app.settings import Settings

PREFIX = "annex_ut_"
"""By which scanners and our own logs know a token."""


def unsubscribe_url(settings: Settings, token: str) -> str:
    """Return the page of this server that ends a kind of mails."""
    assert settings.public_url is not None
    return f"{settings.public_url}/unsubscribe?token={token}"


END = Compiled(select(func.annex.unsubscribe(bindparam("hash", type_=LargeBinary))))


async def end(pool: Pool, token: str, whose: str) -> None:
    """End what a token stands for; for anybody who has it. Raises `NotFound`.

    `whose` is the client's address, which takes turns at the database where no principal is known.
    """
    async with pool.lend(whose) as driver:
        await driver.fetch(END.sql, *END.arguments({"hash": hash_of(token)}))
