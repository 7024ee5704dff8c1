"""The `annex` command."""

import asyncio
import sys
from pathlib import Path
from typing import NoReturn
from uuid import UUID

import rich_click as click

from app import __version__
from app.resources import resource
from app.settings import SettingsError, read_settings

DATA = Path(".data")
PORT = click.IntRange(0, 65535)
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="annex")
def annex() -> None:
    """The B2B layer for a Supabase project: workspaces, members, API keys, events, live streams.

    To try it, run `annex dev`: it needs no settings. To run it on your project, apply the
    migrations (`supabase db push`), then start `annex serve` and, beside it, `annex worker`.

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
    from app.processes import serve_together
    from app.server import serve

    def ready(url: str) -> None:
        click.echo(f"Annex serves {url}", err=True)

    if workers == 1:
        serve(read_settings(), host, port, ready=ready)
    else:
        serve_together(read_settings(), host, port, workers, ready=ready)


@annex.command()
def worker() -> None:
    """Keep the database in order beside `annex serve`, and send its mails.

    It makes and drops partitions, and deletes expired events and answers. On SIGINT or SIGTERM it
    finishes the batch that it has begun, for 8 s at most, and exits with 0. Run at least one;
    several share the work.
    """
    from app.server import check
    from app.worker.housekeeping import work
    from app.worker.runner import until_told

    settings = read_settings()

    async def keep() -> None:
        await check(settings)
        click.echo("Annex keeps house, every hour; Ctrl-C stops it.", err=True)
        await work(settings)

    asyncio.run(until_told(keep()))


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
@click.argument("url", envvar="ANNEX_MIGRATE_URL")
def migrate(url: str) -> None:
    """Apply supabase/migrations to a development database, as the Supabase CLI would.

    URL is a superuser's; supabase/local/platform.sql, or Supabase's own platform, must be there.
    For a hosted Supabase project use `supabase db push` instead.
    """
    from app.dev.migrations import apply

    applied = asyncio.run(apply(url, resource("supabase/migrations")))
    for name in applied:
        click.echo(f"Applied {name}")
    if not applied:
        click.echo("Nothing to apply: the database is up to date.")


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

    try:
        annex(standalone_mode=True)
    except (SettingsError, DevError) as error:
        click.echo(f"annex: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)
