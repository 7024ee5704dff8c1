"""A Supabase project as the Supabase CLI sees it: a folder of migrations and databases.

The CLI is not installed here. `push` and `reset` follow its rules (supabase/cli of June 2026): see
app/dev/migrations.py, which applies a folder as it does.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg

from app.database.migrations import Migration, read_folder
from app.dev.migrations import apply
from app.installation.folder import STAMP, Installed, install
from tests.conftest import MIGRATING_ROLE, ROOT, TestDatabase, execute

PLATFORM = ROOT / "supabase" / "local" / "platform.sql"
NOW = datetime(2027, 3, 1, 12, 0, 0, tzinfo=UTC)
CARRIED = read_folder(ROOT / "supabase" / "migrations")
NEXT = """-- A release after this one.
set role annex_owner;
alter table annex.profiles add column pronouns text;
create function annex.greeting() returns text language sql as $$ select 'hello' $$;
reset role;

insert into annex.migrations (name) values ('90_greetings');
"""


class Project:
    """A folder with migrations of its own, and the databases that it is pushed to."""

    def __init__(self, folder: Path, database: TestDatabase) -> None:
        self.folder = folder
        self.database = database
        """Any database of the server, to make others from."""

    def write(self, at: datetime, count: int, *, first: int = 0) -> None:
        """Write migrations as a person does: a table each, a day after the other."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            stamp = (at + timedelta(days=number)).strftime(STAMP)
            (self.folder / f"{stamp}_own_{number}.sql").write_text(
                f"create table public.own_{number} (id int primary key);\n"
                f"alter table public.own_{number} enable row level security;\n"
            )

    def install(self, at: datetime, *more: Migration) -> Installed:
        """Run `annex install` at a moment."""
        return install(self.folder, [*CARRIED, *more], at)

    async def new(self) -> TestDatabase:
        """Make a project's database as Supabase makes it."""
        name = f"test_project_{uuid4().hex[:8]}"
        await execute(self.database.postgres.admin_url, f"create database {name}")
        made = TestDatabase(self.database.postgres, name)
        await execute(made.url("postgres"), PLATFORM.read_text())
        return made

    async def push(self, database: TestDatabase) -> list[str]:
        """Run `supabase db push`, as Supabase's `postgres`."""
        return await apply(database.url("postgres"), self.folder, MIGRATING_ROLE)

    async def repair(self, database: TestDatabase, versions: list[str]) -> None:
        """Run `supabase migration repair --status applied`."""
        connection = await asyncpg.connect(database.url("postgres"))
        for version in versions:
            (file,) = self.folder.glob(f"{version}_*.sql")
            await connection.execute(
                "insert into supabase_migrations.schema_migrations (version, name) values ($1, $2)",
                version,
                file.stem.partition("_")[2],
            )
        await connection.close()


def later_release(folder: Path) -> Migration:
    """Write the migration of a release after this one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "20280101009000_greetings.sql"
    path.write_text(NEXT)
    (found,) = read_folder(folder)
    return found


async def shape(database: TestDatabase) -> list[str]:
    """Describe the schema annex, to compare two ways to it."""
    connection = await asyncpg.connect(database.url("postgres"))
    rows = await connection.fetch("""
        select format('%s.%s %s', c.relname, a.attname, a.atttypid::regtype) as what
        from pg_attribute a join pg_class c on c.oid = a.attrelid
        where c.relnamespace = 'annex'::regnamespace and a.attnum > 0 and not a.attisdropped
        union all
        select p.oid::regprocedure::text from pg_proc p where p.pronamespace = 'annex'::regnamespace
        union all select 'record ' || name from annex.migrations
        order by 1
        """)
    await connection.close()
    return [row["what"] for row in rows]
