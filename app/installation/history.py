"""What the Supabase CLI has recorded of a project's migrations."""

from collections.abc import Sequence

from app.installation.database import applied_here, connected
from app.installation.folder import Copy

HISTORY = "select version from supabase_migrations.schema_migrations"
HAS_HISTORY = """
select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = 'supabase_migrations' and c.relname = 'schema_migrations')
"""


async def to_repair(url: str, copies: Sequence[Copy]) -> list[Copy]:
    """Return the copies that the database has although the CLI does not know it.

    `annex migrate` applied them. Raises `InstallationError` for a database that does not answer.
    """
    async with connected(url) as connection, connection.transaction():
        here = await applied_here(connection)
        pushed: set[str] = set()
        if await connection.fetchval(HAS_HISTORY):
            pushed = {row[0] for row in await connection.fetch(HISTORY)}
    return [copy for copy in copies if copy.name in here and copy.version not in pushed]
