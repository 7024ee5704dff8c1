"""`[tool.alembic-readonly-check]` of a project's pyproject.toml; the command line goes over it."""

import datetime as dt
import os
import re
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from alembic_readonly_check.codes import REGISTRY
from alembic_readonly_check.converting import Wrong, convert
from alembic_readonly_check.findings import CannotCheck, Finding
from alembic_readonly_check.platforms import PLATFORMS, Platform


@dataclass(frozen=True, slots=True)
class ApiRules:
    """What a project may set about its API, under `[tool.alembic-readonly-check.api]`.

    `permission_extension` of an operation must equal `permission_opt` of its handler. A handler is
    authenticated if it has a guard, an authentication middleware or one of `auth_dependencies`
    among its dependencies, unless `public_opt` is true in its `opt`. `ambient_parameters`
    (`header:If-Match`) are read from the request itself, so no signature names them.
    `undocumented` are globs of paths that are served on purpose without a contract.
    `private_columns` are globs over `schema.table.column` that no response may carry.
    """

    permission_extension: str = "x-permission"
    permission_opt: str = "permission"
    public_opt: str = "exclude_from_auth"
    auth_dependencies: tuple[str, ...] = ()
    ambient_parameters: tuple[str, ...] = ()
    undocumented: tuple[str, ...] = ()
    private_columns: tuple[str, ...] = ("*_hash",)
    column_extension: str = "x-db-column"
    external_extension: str = "x-external-api"


SECTION = "[tool.alembic-readonly-check]"
VARIABLE = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class Ignore:
    """One finding that is known and borne for a while; it counts again after `until`."""

    code: str
    subject: str
    reason: str
    until: dt.date

    def covers(self, finding: Finding, today: dt.date) -> bool:
        """Tell whether it silences a finding today; `*` in the subject stands for any text."""
        pattern = re.escape(self.subject).replace(r"\*", ".*")
        return (
            finding.code == self.code
            and today <= self.until
            and re.fullmatch(pattern, finding.subject) is not None
        )


@dataclass(frozen=True, slots=True)
class Scratch:
    """Where scratch databases are made, and how they are migrated.

    `platform` files go first. Instead of the folder `migrations`, `alembic` names an alembic.ini
    whose revisions are rendered offline, or `command` is run with the scratch database's URL in the
    variable `url-env` of the configuration, written for `driver`.
    """

    url_env: str = "SCRATCH_DATABASE_URL"
    platform: tuple[str, ...] = ()
    role: str | None = None
    alembic: str | None = None
    command: tuple[str, ...] = ()
    driver: str = "postgresql"


@dataclass(frozen=True, slots=True)
class Config:
    """What is compared. Paths are relative to the folder of pyproject.toml."""

    metadata: str | None = None
    app: str | None = None
    datamodel: str | None = "docs/datamodel.md"
    openapi: str | None = "docs/openapi.yaml"
    external_apis: str | None = "docs/external_apis.md"
    migrations: str | None = "supabase/migrations"
    url_env: str = "DATABASE_URL"
    schemas: tuple[str, ...] = ()
    default_schema: str = "public"
    exclude: tuple[str, ...] = ("*.alembic_version", "*.schema_migrations")
    platform: Literal["supabase"] | None = None
    rls: Literal["forced", "enabled", "off", "any"] = "forced"
    rolling_partitions: bool = True
    timeout: float = 30
    scratch: Scratch = field(default_factory=Scratch)
    api: ApiRules = field(default_factory=ApiRules)
    ignore: tuple[Ignore, ...] = ()
    root: str = field(default=".", metadata={"own": 1})
    source: str | None = field(default=None, metadata={"own": 1})
    stated: tuple[str, ...] = field(default=(), metadata={"own": 1})
    url_envs: tuple[str, ...] = field(default=(), metadata={"own": 1})
    """Further variables that hold the URL of a live database: the command line replaced them."""

    @property
    def hosting(self) -> Platform:
        """Give what the platform of the databases brings."""
        return PLATFORMS[self.platform]

    def is_managed(self, schema: str) -> bool:
        """Tell whether a schema belongs to the platform and not to the project."""
        return schema in self.hosting.schemas

    @property
    def folder(self) -> Path:
        """Say where relative paths start."""
        return Path(self.root)

    def path(self, name: str | None) -> Path | None:
        """Resolve a path; None if it is not configured, or if nothing is at a default one.

        Raises `CannotCheck` if the configuration names a path and nothing is there.
        """
        if not name:
            return None
        path = self.folder / name
        if path.exists():
            return path
        if name in self.stated:
            raise CannotCheck(f"{name} is configured and not there; correct {SECTION}.")
        return None


def load(start: Path) -> Config:
    """Read the nearest pyproject.toml at or above a folder that has the section; else defaults.

    Raises `CannotCheck` naming the key that is wrong.
    """
    for folder in (start.resolve(), *start.resolve().parents):
        path = folder / "pyproject.toml"
        if not path.is_file():
            continue
        try:
            section = (
                tomllib.loads(path.read_text("utf-8")).get("tool", {}).get("alembic-readonly-check")
            )
        except (OSError, ValueError) as error:
            raise CannotCheck(f"{path} cannot be read: {error}.") from None
        if section is not None:
            return _convert(section, folder, path)
    return Config(root=str(start.resolve()))


def _convert(section: object, folder: Path, path: Path) -> Config:
    if not isinstance(section, dict):
        raise CannotCheck(f"{SECTION} in {path.name} is not a table.")
    try:
        config: Config = convert(section, Config)
    except Wrong as error:
        raise CannotCheck(f"{SECTION} in {path.name}: {error}.") from None
    stated = tuple(value for value in section.values() if isinstance(value, str))
    config = replace(config, root=str(folder), source=str(path), stated=stated)
    for name in (config.url_env, config.scratch.url_env):
        if not VARIABLE.fullmatch(name):
            raise CannotCheck(f"A url-env in {path.name} is no name of a variable; never a URL.")
    ways = {"migrations": "migrations" in section} | {
        "scratch.alembic": bool(config.scratch.alembic),
        "scratch.command": bool(config.scratch.command),
    }
    if sum(ways.values()) > 1:
        both = " and ".join(way for way, is_stated in ways.items() if is_stated)
        raise CannotCheck(f"{SECTION} in {path.name} sets {both}; configure one of them.")
    for ignore in config.ignore:
        if ignore.code not in REGISTRY:
            raise CannotCheck(f"An ignore in {path.name} names {ignore.code}, which is no code.")
        if not ignore.reason.strip():
            raise CannotCheck(f"The ignore of {ignore.code} in {path.name} gives no reason.")
    return config


def secret(name: str) -> str | None:
    """Read an environment variable; only its name is ever shown.

    Raises `CannotCheck` if the name is none: it may be the URL itself, with its password.
    """
    if not VARIABLE.fullmatch(name):
        raise CannotCheck("`url-env` takes the name of a variable, and no URL.")
    return os.environ.get(name) or None


def needed(name: str) -> str:
    value = secret(name)
    if value is None:
        raise CannotCheck(f"{name} is not set.")
    return value
