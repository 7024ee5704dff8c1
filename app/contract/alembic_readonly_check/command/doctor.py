"""Say what is configured, what is there and what is missing."""

import json
from collections.abc import Callable, Iterator
from functools import partial

from alembic_readonly_check.command.check import Check
from alembic_readonly_check.config import Config, needed, secret
from alembic_readonly_check.findings import CannotCheck

NEEDED = {
    "docs": (("datamodel",),),
    "models": (("datamodel", "metadata"),),
    "api": (("openapi", "app"),),
    "db": (
        ("url-env",),
        ("scratch.url-env", "migrations"),
        ("scratch.url-env", "scratch.alembic"),
        ("scratch.url-env", "scratch.command"),
    ),
    "migrations": (("url-env", "migrations"),),
}
"""Subcommand -> keys of the configuration that have to be well; one of the tuples suffices."""


def diagnosis(config: Config) -> Iterator[tuple[str, str, str]]:
    """Yield each key of the configuration, how it stands, and what is there or wrong."""
    check = Check(config)

    def read(part: Callable[[], object]) -> str:
        part()
        return check.compared[-1]

    files: dict[str, tuple[str | None, Callable[[], str]]] = {
        "datamodel": (config.datamodel, lambda: read(check.docs)),
        "openapi": (config.openapi, lambda: read(check.contract)),
        "external-apis": (
            config.external_apis,
            lambda: str(config.path(config.external_apis) and config.external_apis),
        ),
        "migrations": (config.migrations, lambda: _migrations(config)),
    }
    for key, (path, look) in files.items():
        is_there = path is not None and (path in config.stated or config.path(path) is not None)
        yield key, *(_tried(look) if is_there else ("missing", f"{path} is not there"))
    modules: dict[str, tuple[str | None, Callable[[], str]]] = {
        "metadata": (config.metadata, lambda: read(check.mapped)),
        "app": (config.app, lambda: read(check.routes)),
    }
    for key, (target, look) in modules.items():
        yield key, *(_tried(look) if target else ("missing", "is not configured"))
    scratch = config.scratch
    if scratch.alembic:
        is_there = (config.folder / scratch.alembic).is_file()
        state = "ok" if is_there else "wrong"
        yield "scratch.alembic", state, scratch.alembic if is_there else "is not there"
    if scratch.command:
        yield "scratch.command", "ok", " ".join(scratch.command)
    for key, name in (("url-env", config.url_env), ("scratch.url-env", config.scratch.url_env)):
        is_set = secret(name) is not None
        look = partial(_server, name, config.timeout)
        yield key, *(_tried(look) if is_set else ("missing", f"{name} is not set"))


def _tried(look: Callable[[], str]) -> tuple[str, str]:
    try:
        return "ok", look()
    except CannotCheck as error:
        return "wrong", str(error)


def _migrations(config: Config) -> str:
    from alembic_readonly_check.sources import migrations

    return f"{len(migrations.files(config.path(config.migrations)))} files in {config.migrations}"


def _server(name: str, timeout: float) -> str:
    from alembic_readonly_check.db import guard

    url = guard.driver_url(needed(name), name)
    state = json.loads(guard.run(url, name, (), lambda reader: reader.ask("state"), timeout))
    may = "may" if state["creates"] else "may not"
    told = f"Postgres {state['version'] // 10000}, role {state['role']}, which {may} make databases"
    return f"{name}: {told}; read in a read-only transaction"
