"""One run of the check: read what the configuration names, compare every pair that is there."""

import datetime as dt
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy.engine import URL

from alembic_readonly_check import (
    baseline,
    catalog,
    datamodel,
    guard,
    metadata,
    migrations,
    scratch,
    snapshot,
)
from alembic_readonly_check.codes import finding
from alembic_readonly_check.columns_contract import check_columns
from alembic_readonly_check.compare import CODES, Comparison, Planner, Rules, Side
from alembic_readonly_check.config import Config, secret
from alembic_readonly_check.datamodel import Document
from alembic_readonly_check.external import check_external
from alembic_readonly_check.facts import Json, Schema
from alembic_readonly_check.findings import CannotCheck, Finding, Location, ordered
from alembic_readonly_check.guard import Reader
from alembic_readonly_check.metadata import Models
from alembic_readonly_check.migrations import Migration
from alembic_readonly_check.openapi import Contract, load_contract
from alembic_readonly_check.reporters import Report


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line adds to the configuration; empty means as configured."""

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    baseline: Path | None = None
    snapshot: Path | None = None
    strict_coverage: bool = False
    require_readonly_role: bool = False


@dataclass(frozen=True, slots=True)
class Live:
    """What the live side said: its facts, its history of migrations, how to ask it more."""

    schema: Schema
    applied: dict[str, Json] | None
    planner: Planner | None


@dataclass(slots=True)
class Check:
    """Collects findings part by part; `progress` is told what happens next."""

    config: Config
    options: Options = Options()
    progress: Callable[[str], None] = lambda _: None
    findings: list[Finding] = field(default_factory=list)
    compared: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    document: Document | None = None
    models: Models | None = None
    described: Contract | None = None

    # ------------------------------------------------------------------ offline

    def docs(self, required: bool = False) -> None:
        """Read datamodel.md and report what is wrong with it."""
        path = self.config.path(self.config.datamodel)
        if path is None:
            if required:
                raise CannotCheck(f"{self.config.datamodel} is not there.")
            self.note("datamodel.md is not there, so nothing is compared with it")
            return
        self.progress(f"reading {self.config.datamodel}")
        self.document = datamodel.read(
            path, self.config.folder, self.config.default_schema, self.config.rls
        )
        self.findings += self.document.findings
        self.compared.append(f"{len(self.document.schema.tables)} tables of {self.document.path}")

    def mapped(self, required: bool = False) -> None:
        """Read the models."""
        if self.config.metadata is None:
            if required:
                raise CannotCheck("No models are named: set metadata, or give --metadata mod:attr.")
            self.note("no models are named, so nothing is compared with them")
            return
        self.progress(f"importing {self.config.metadata}")
        self.models = metadata.read(
            self.config.metadata, self.config.folder, self.config.default_schema, self.is_compared
        )
        self.compared.append(f"{len(self.models.schema.tables)} tables of {self.config.metadata}")

    def offline(self) -> None:
        """Compare the document with the models."""
        if self.document is not None and self.models is not None:
            self.findings += Comparison(
                "DM", self.document_side(), self.models_side(self.models.schema), self.rules()
            ).run()

    def contract(self, required: bool = False) -> None:
        """Check openapi.yaml against datamodel.md and external_apis.md."""
        path = self.config.path(self.config.openapi)
        if path is None:
            if required:
                raise CannotCheck(f"{self.config.openapi} is not there.")
            self.note("openapi.yaml is not there, so nothing is compared with it")
            return
        self.progress(f"reading {self.config.openapi}")
        self.described = load_contract(path, self.config.folder)
        rules = self.config.api
        if self.document is not None:
            self.findings += check_columns(
                self.described,
                self.document.schema,
                rules,
                self.config.default_schema,
                self.config.managed_schemas,
            )
        external = self.config.path(self.config.external_apis)
        self.findings += check_external(
            self.described,
            external.read_text("utf-8") if external else None,
            self.config.external_apis or "external_apis.md",
            rules,
        )
        self.compared.append(f"{len(self.described.operations)} operations of {path.name}")

    def api(self, required: bool = False) -> None:
        """Compare openapi.yaml with the app and with the other documents."""
        self.contract(required)
        if self.described is None:
            return
        if self.config.app is None:
            if required:
                raise CannotCheck("No app is named: set app, or give --app mod:app.")
            self.note("no app is named, so nothing is compared with it")
            return
        # Litestar is imported only here: documents and databases are compared without it.
        from litestar import Litestar

        from alembic_readonly_check.routes import check_routes, routes_of
        from alembic_readonly_check.structs import check_structs

        self.progress(f"importing {self.config.app}")
        app = metadata.load(self.config.app, self.config.folder)
        if not isinstance(app, Litestar) and callable(app):
            app = app()
        if not isinstance(app, Litestar):
            raise CannotCheck(f"{self.config.app} is not a Litestar app, nor does it make one.")
        routes = routes_of(app, self.config.folder)
        self.findings += check_routes(self.described, routes, self.config.api)
        self.findings += check_structs(self.described, routes, self.config.folder)
        count = sum(route.method != "OPTIONS" for route in routes)
        self.compared.append(f"{count} routes of {self.config.app}")

    def note(self, text: str) -> None:
        """Remember what was left out, so that nobody takes silence for agreement."""
        if text not in self.notes:
            self.notes.append(text)

    def rules(self) -> Rules:
        """Read the rules of comparison off the configuration."""
        return Rules(
            self.config.default_schema,
            self.config.ignore_grantees,
            self.config.ignore_extensions,
            self.config.rolling_partitions,
        )

    def is_compared(self, schema: str) -> bool:
        """Tell whether the tables of a schema are the project's own."""
        if self.config.schemas:
            return schema in self.config.schemas
        return schema not in self.config.managed_schemas

    def scope(self) -> catalog.Scope:
        """Compare the configured schemas, else those that the document and the models name."""
        sources = (self.document and self.document.schema, self.models and self.models.schema)
        named = {name.partition(".")[0] for held in sources if held for name in held.tables}
        schemas = self.config.schemas or tuple(sorted(named - set(self.config.managed_schemas)))
        if not schemas:
            raise CannotCheck("There is no schema to compare: give a document, models or schemas.")
        return catalog.Scope(schemas, self.config.exclude)

    def document_side(self) -> Side:
        """Stand the document on a side of a comparison."""
        if self.document is None:
            raise CannotCheck("There is no datamodel.md to compare.")
        tables = self.document.schema.tables

        def locate(table: str, column: str | None) -> Location | None:
            held = tables.get(table)
            found = held.column(column) if held is not None and column is not None else held
            return found.location if found is not None else None

        return Side(self.document.schema, "document", locate, self.document.is_unreadable)

    def models_side(self, schema: Schema) -> Side:
        """Stand the models, in their own or the server's spelling, on a side of a comparison."""
        if self.models is None:
            raise CannotCheck("There are no models to compare.")
        return Side(schema, "model", self.models.locate)

    # ------------------------------------------------------------------ against catalogs

    def against(
        self, held: Schema, label: str, planner: Planner | None, models: Schema | None
    ) -> list[Finding]:
        """Compare document and models with a catalog; drift that both see is said once."""
        if not held.tables:
            raise CannotCheck(f"The {label} hold no table in {', '.join(self.scope().schemas)}.")
        follow = Side(held, label)
        found: list[Finding] = []
        if self.document is not None:
            found += Comparison("DC", self.document_side(), follow, self.rules(), planner).run()
        if models is not None:
            said = {(one.code, one.subject) for one in found if self.selected(one)}
            twins = {codes["DB"]: codes.get("DC") for codes in CODES.values() if "DB" in codes}
            found += [
                one
                for one in Comparison(
                    "DB", self.models_side(models), follow, self.rules(), planner
                ).run()
                if (twins.get(one.code), one.subject) not in said
            ]
        self.compared.append(f"{len(held.tables)} tables of the {label}")
        return found

    def databases(self, only: frozenset[str] = frozenset({"facts", "migrations"})) -> None:
        """Compare with a scratch and a live database, as far as their variables are set.

        `only` names what is wanted: `facts` of document and models, `migrations`. Raises
        `CannotCheck` if neither a scratch server, a live database nor a snapshot is given.
        """
        scratch_name, live_name = self.config.scratch.url_env, self.config.url_env
        server = secret(scratch_name)
        live = secret(live_name)
        if not (server or live or self.options.snapshot):
            raise CannotCheck(
                f"There is no database: set {live_name} or {scratch_name}, or give --snapshot."
            )
        live_url = guard.driver_url(live, live_name) if live else None
        held = migrations.files(self.config.path(self.config.migrations))
        work = partial(self.with_live, only=only, held=held)
        made: list[Finding] = []
        if server is not None:
            url = guard.driver_url(server, scratch_name)
            if live_url is not None:
                scratch.refuse_live(url, scratch_name, (live_name, live_url))
            made = self.with_scratch(url, held) if "facts" in only and held else []
            self.findings += made
            work = partial(work, server=url)
        else:
            self.note(f"{scratch_name} is not set, so the migrations were not carried out")
        said = {(one.code, one.subject, one.expected, one.actual) for one in made}
        before = len(self.findings)
        if self.options.snapshot is not None:
            self.progress(f"reading {self.options.snapshot.name}")
            taken = snapshot.read(self.options.snapshot)
            schema = snapshot.facts(taken, self.scope(), "database")
            applied = migrations.history(taken.history) if taken.history else None
            work(Live(schema, applied, None))
        elif live_url is not None:
            guard.run(
                live_url,
                live_name,
                self.scope().schemas,
                lambda reader: work(self.read_live(reader)),
                self.config.timeout,
            )
        fresh = self.findings[before:]
        del self.findings[before:]
        self.findings += [
            one for one in fresh if (one.code, one.subject, one.expected, one.actual) not in said
        ]

    def read_live(self, reader: Reader) -> Live:
        """Read a live database, and what its role could do to it."""
        writable = msgspec.json.decode(reader.ask("writable"))
        if writable:
            message = f"the role {reader.role} may write to {', '.join(writable[:3])}" + (
                f" and {len(writable) - 3} more" if len(writable) > 3 else ""
            )
            if self.options.require_readonly_role:
                raise CannotCheck(f"{message[:1].upper()}{message[1:]}.", "RO901")
            self.findings.append(finding("RO901", reader.role, message, actual=", ".join(writable)))
        schema = catalog.read(self.asking(reader), self.scope(), "database")
        history = snapshot.applied(reader)
        return Live(schema, migrations.history(history) if history else None, reader)

    def asking(self, reader: Reader) -> Callable[[str], str]:
        """Ask the catalog queries and tell how far it is."""
        total = len(catalog.QUERIES)

        def ask(name: str) -> str:
            done = list(catalog.QUERIES).index(name) + 1
            self.progress(f"reading the catalog: {name} ({done} of {total})")
            return reader.ask(name)

        return ask

    def with_live(
        self,
        live: Live,
        *,
        only: frozenset[str],
        held: list[Migration],
        server: URL | None = None,
    ) -> None:
        """Compare document, models and migrations with the live side."""
        applied = live.applied
        waiting = migrations.pending(held, applied) if applied is not None else []
        if "migrations" in only:
            if applied is None:
                self.note("the database keeps no supabase_migrations.schema_migrations")
            else:
                self.findings += migrations.check(held, applied, self.config.folder)
                self.compared.append(f"{len(held)} migrations")
        models = self.models.schema if self.models else None
        behind: list[Finding] = []
        done = [migration for migration in held if migration not in waiting]
        if server is not None and done and ("migrations" in only or waiting):
            self.progress("carrying out the applied migrations")
            with self.made(server, done, None) as made:
                expected, behind = self.read_scratch(
                    made.migrated, models if waiting and "facts" in only else None
                )
            if "migrations" in only:
                self.findings += Comparison(
                    "MG",
                    Side(expected, "migrations"),
                    Side(live.schema, "database"),
                    self.rules(),
                ).run()
        if "facts" in only:
            known = {(one.code, one.subject) for one in behind}
            self.findings += [
                one
                for one in self.against(live.schema, "database", live.planner, models)
                # What waits to be applied is no drift of the live database.
                if (one.code, one.subject) not in known
            ]

    def made(self, server: URL, held: list[Migration], models: Models | None) -> Any:
        """Make scratch databases from migrations and, if given, models."""
        config = self.config.scratch
        for path in config.platform:
            if not (self.config.folder / path).is_file():
                raise CannotCheck(f"The platform file {path} is not there.")
        return scratch.databases(
            server,
            config.url_env,
            [self.config.folder / path for path in config.platform],
            [migration.path for migration in held],
            config.role,
            models.metadata if models else None,
            self.config.default_schema,
        )

    def with_scratch(self, server: URL, held: list[Migration]) -> list[Finding]:
        """Compare document and models with what the migrations make."""
        self.progress(f"carrying out {len(held)} migrations")
        with self.made(server, held, self.models) as made:
            models = self.models.schema if self.models else None
            if made.compiled is not None and models is not None:
                shadow = catalog.Scope(
                    tuple(inner for inner, _ in made.shadows), self.config.exclude, made.shadows
                )
                compiled = guard.run(
                    made.compiled,
                    self.config.scratch.url_env,
                    shadow.schemas,
                    lambda reader: catalog.read(reader.ask, shadow, "models"),
                    self.config.timeout,
                )
                models = scratch.as_models(compiled, models)
                for refusal in made.refused:
                    self.note(f"the server refuses a part of the models: {refusal}")
            _, found = self.read_scratch(made.migrated, models)
        return found

    def read_scratch(self, url: URL, models: Schema | None) -> tuple[Schema, list[Finding]]:
        """Read a migrated scratch database and compare document and models with it."""
        scope = self.scope()

        def work(reader: Reader) -> tuple[Schema, list[Finding]]:
            schema = catalog.read(reader.ask, scope, "migrations")
            wanted = models is not None or self.document is not None
            return schema, self.against(schema, "migrations", reader, models) if wanted else []

        return guard.run(url, self.config.scratch.url_env, scope.schemas, work, self.config.timeout)

    # ------------------------------------------------------------------ the result

    def selected(self, found: Finding) -> bool:
        """Tell whether the command line wants a finding's code; a prefix names a family."""
        wanted = not self.options.select or found.code.startswith(self.options.select)
        return wanted and not (self.options.ignore and found.code.startswith(self.options.ignore))

    def report(self, today: dt.date) -> Report:
        """Leave out what is not selected, ignored or in the baseline, and sort the rest.

        Raises `CannotCheck` if nothing was compared: that is no agreement.
        """
        if not self.compared:
            raise CannotCheck("Nothing was compared: there is no document, no models and no app.")
        found: Iterable[Finding] = (one for one in set(self.findings) if self.selected(one))
        found = [
            one
            for one in found
            if not any(ignore.covers(one, today) for ignore in self.config.ignore)
        ]
        for ignore in self.config.ignore:
            if today > ignore.until:
                self.note(f"the ignore of {ignore.code} {ignore.subject} ended on {ignore.until}")
        if self.options.baseline is not None:
            found = baseline.apply(found, baseline.read(self.options.baseline), today)
        if self.options.strict_coverage:
            found = [
                replace(one, severity="error") if one.code == "DC390" else one for one in found
            ]
        compared = dict.fromkeys(self.compared)
        return Report(tuple(ordered(found)), tuple(compared), tuple(self.notes))
