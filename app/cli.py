"""The `annex` command."""

import asyncio
import sys
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn
from uuid import UUID

import rich_click as click

from app import __version__
from app.settings import MIGRATE_URL, SettingsError, environment, read_settings

DATA = Path(".data")
PORT = click.IntRange(0, 65535)
AFTER_MIGRATIONS = (
    "  # the first time, in the SQL editor, passwords of your own:",
    "  alter role annex_api password '…'; alter role annex_worker password '…';",
    "  annex doctor              # with the settings of .env.example",
)
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="annex")
def annex() -> None:
    """The B2B layer for a Supabase project: workspaces, members, API keys, events, live streams.

    To try it, run `annex dev`: it needs no settings. To run it on your project, add the migrations
    (`annex install`, then `supabase db push`), start `annex serve` and, beside it, `annex worker`.

    Settings come from the environment (ANNEX_…) and from a file .env; .env.example explains each.
    """


@annex.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=PORT, default=8000, show_default=True, help="Port to listen on; 0: a free one."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=DATA,
    show_default=True,
    help="Folder that keeps the database; also holds dev.json and dev.env while the server runs.",
)
@click.option("--fresh", is_flag=True, help="Throw the folder's database away and start over.")
def dev(host: str, port: int, data: Path, fresh: bool) -> None:
    """Run everything on a local Postgres with demo data; needs no settings.

    Prints URLs, a demo user's token, an API key and curl lines to paste. Ctrl-C stops it; the data
    stays. In another terminal, `. .data/dev.env` sets ANNEX_URL, ANNEX_KEY and ANNEX_TOKEN.
    """
    from app.dev.demo import greeting
    from app.dev.server import run
    from app.logs import warn_of_misspelt

    warn_of_misspelt()
    run(
        data.resolve(),
        host,
        port,
        is_fresh=fresh,
        say=lambda line: click.echo(line, err=True),
        greet=lambda found: click.echo(greeting(found)),
    )


@annex.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=PORT, default=8000, show_default=True, help="Port to listen on.")
@click.option(
    "--workers",
    type=click.IntRange(1, 128),
    default=1,
    show_default=True,
    help="Processes that share the port; one a core. Each follows the log and holds streams.",
)
def serve(host: str, port: int, workers: int) -> None:
    """Serve the API on the database of the settings, until SIGINT or SIGTERM.

    Needs ANNEX_DATABASE_URL, ANNEX_WORKER_DATABASE_URL, ANNEX_SUPABASE_URL and ANNEX_SECRET_KEY. If
    a setting or the database is wrong, it says so and exits with 1. When it stops, it ends open
    streams over 3 s; clients reconnect with their cursor and lose nothing.
    """
    from app.logs import warn_of_misspelt
    from app.processes import serve_together
    from app.server import serve

    def ready(url: str) -> None:
        click.echo(f"Annex serves {url}", err=True)

    warn_of_misspelt()
    settings = read_settings()
    if workers == 1:
        serve(settings, host, port, ready=ready)
    else:
        serve_together(settings, host, port, workers, ready=ready)


@annex.command()
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on, with --port."
)
@click.option(
    "--port", type=PORT, help="Port for /health, /health/ready and /metrics; without it, none."
)
def worker(host: str, port: int | None) -> None:
    """Notify users, send mails and keep the database in order, beside `annex serve`.

    It puts events into inboxes, makes and drops partitions, and deletes what has expired. On SIGINT
    or SIGTERM it finishes the batch that it has begun, for 8 s at most, and exits with 0. Run at
    least one; several share the work.
    """
    import uvloop

    from app.logs import warn_of_misspelt
    from app.server import check
    from app.worker.housekeeping import work
    from app.worker.runner import until_told
    from app.worker_server import serve_worker

    def ready(where: str = "") -> None:
        click.echo(f"Annex works{where}; Ctrl-C stops it.", err=True)

    async def keep() -> None:
        await check(settings)
        await work(settings, ready)

    warn_of_misspelt()
    settings = read_settings()
    if port is None:
        uvloop.run(until_told(keep()))
    else:
        serve_worker(settings, host, port, ready=lambda url: ready(f", and tells how at {url}"))


@annex.command()
@click.argument("user", default="owner")
@click.option("--email", help="Email claim; a demo user has one already.")
@click.option(
    "--aal",
    type=click.Choice(["aal1", "aal2"]),
    default="aal1",
    show_default=True,
    help="Claim aal; aal2 has passed a second factor.",
)
@click.option(
    "--seconds", default=86400, show_default=True, help="Lifetime of the token in seconds."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=DATA,
    show_default=True,
    help="The folder of `annex dev`, whose secret signs the token.",
)
def token(user: str, email: str | None, aal: str, seconds: int, data: Path) -> None:
    """Print a development access token for USER: owner, member, stranger, or a user's UUID.

    Signed with ANNEX_JWT_SECRET, or with the secret of `annex dev`; a hosted Supabase project takes
    neither.
    """
    from app.dev import DevError
    from app.dev.demo import USERS, mint_token, token_settings

    if user not in USERS and not is_uuid(user):
        raise DevError(f"There is no demo user {user}; name {', '.join(USERS)} or a user's UUID.")
    known = USERS.get(user, {"id": user, "email": None})
    settings = token_settings(data)
    click.echo(
        mint_token(settings, str(known["id"]), email or known["email"], seconds=seconds, aal=aal)
    )


def is_uuid(text: str) -> bool:
    """Say whether a text is a UUID."""
    try:
        UUID(text)
    except ValueError:
        return False
    return True


@annex.command()
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("supabase/migrations"),
    show_default=True,
    help="Folder of your project's own migrations.",
)
@click.option(
    "--database",
    help="URL of the project's database: says what `annex migrate` has applied there already. "
    "ANNEX_MIGRATE_URL may hold it.",
)
def install(into: Path, database: str | None) -> None:
    """Copy Annex's migrations into your project, beside its own.

    Each copy is stamped now, after your newest migration, and never changed afterwards. Run it
    again after an upgrade of Annex: it adds only what is new. Nothing is applied; the command says
    how to do that.
    """
    from app.database.migrations import carried, listed
    from app.installation.folder import install
    from app.installation.history import to_repair

    url = database or environment().get(MIGRATE_URL)
    if url:
        asyncio.run(to_repair(url, []))  # a database that does not do is said before a file is made
    done = install(into, carried(), datetime.now(UTC))
    for copy in done.added:
        click.echo(f"Added {copy.path}")
    for copy in done.changed:
        click.echo(f"{copy.path} differs from this version's; it is left as it is.", err=True)
    if not done.added:
        click.echo(f"Nothing to add: {into} has all of Annex's migrations.")
    if done.unknown:
        names = listed([copy.name for copy in done.unknown])
        click.echo(f"A later release of Annex added {names}; upgrade Annex here.", err=True)
    copies = [*done.present, *done.added]
    repaired = asyncio.run(to_repair(url, copies)) if url else []
    click.echo(next_steps([copy.version for copy in repaired], bool(done.added)))


def next_steps(versions: list[str], has_new: bool) -> str:
    """Say what to run after `annex install`."""
    lines = ["", "Next:"] if has_new or versions else []
    if versions:
        lines += [
            "  # `annex migrate` has applied these already; tell the Supabase CLI:",
            f"  supabase migration repair --status applied {' '.join(versions)}",
        ]
    if has_new:
        lines += [
            "  supabase db push          # your hosted project; `supabase db reset` locally",
            *AFTER_MIGRATIONS,
        ]
    return "\n".join(lines)


@annex.command()
@click.argument("url", required=False)
def migrate(url: str | None) -> None:
    """Apply Annex's migrations to a database, without the Supabase CLI.

    URL is of a role that may create roles, such as Supabase's `postgres`. ANNEX_MIGRATE_URL, in the
    environment or in .env, may hold it, so that no password is on the command line. What the
    database has, whoever applied it, is skipped. Each migration is one transaction.
    """
    from app.database.migrations import carried
    from app.installation.database import migrate

    if not (url := url or environment().get(MIGRATE_URL)):
        raise click.UsageError(f"Name the database's URL, or set {MIGRATE_URL}.")
    done = asyncio.run(migrate(url, carried(), click.echo))
    if not done:
        click.echo("Nothing to apply: the database is up to date.")
    elif done[0] == carried()[0].name:
        click.echo("\n".join(["", "Next:", *AFTER_MIGRATIONS]))


@annex.command()
@click.argument("url", required=False)
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of your project's own migrations, to write the SQL into as the newest of them.",
)
def uninstall(url: str | None, into: Path | None) -> None:
    """Print the SQL that removes Annex from a database, or write it; runs nothing.

    With a URL, or with ANNEX_MIGRATE_URL, it also lists what of your own refers to Annex and would
    go along.
    """
    from app.installation.folder import remove
    from app.installation.removal import dependents, removal

    if url := url or environment().get(MIGRATE_URL):
        for name in asyncio.run(dependents(url)):
            click.echo(f"Goes along: {name}", err=True)
    if into is None:
        click.echo(removal(), nl=False)
    else:
        click.echo(f"Added {remove(into, removal(), datetime.now(UTC))}")


@annex.command()
@click.option("--json", "is_json", is_flag=True, help="Print the results as JSON.")
@click.option(
    "--workers",
    type=click.IntRange(1, 128),
    default=1,
    show_default=True,
    help="What `annex serve` has as --workers. ANNEX_PROCESSES says how many `annex serve` there "
    "are; all processes on this database are the one times the other.",
)
def doctor(is_json: bool, workers: int) -> None:
    """Check a deployment, and say what is wrong and what cures it.

    Run it where Annex runs, with the same settings; it changes nothing. Exits with 0 if all is
    well, 1 for warnings, 2 for errors.
    """
    import msgspec

    from app.doctor.visit import diagnose, exit_code, lines

    results = diagnose(workers)
    if is_json:
        click.echo(msgspec.json.format(msgspec.json.encode(results)).decode())
    else:
        click.echo("\n".join(lines(results)))
    sys.exit(exit_code(results))


@annex.command("operator-key")
def operator_key() -> None:
    """Make an operator key, and its hash for ANNEX_OPERATOR_KEY_HASHES.

    The key is printed once and kept nowhere. An operator reads /metrics and sees all workspaces.
    Put only the hash into the settings, and restart `annex serve`.
    """
    from app.auth.keys import Key

    key = Key.make("op")
    click.echo(f"Key:  {key}\nHash: {key.hash.hex()}")


def main() -> NoReturn:
    """Run the command; what a person can mend is one sentence and exit code 1, no traceback."""
    from app.dev import DevError
    from app.installation import InstallationError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may know no "…"
    try:
        annex(standalone_mode=True)
    except (SettingsError, DevError, InstallationError) as error:
        click.echo(f"annex: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        click.echo(f"annex: {error.filename} cannot be used: {error.strerror}.", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)
