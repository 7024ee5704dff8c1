"""The part of a run that needs databases: scratch ones, a live one, or a saved snapshot.

It is imported only then: the driver and the engine cost a tenth of a second.
"""

import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sqlalchemy.engine import URL

from alembic_readonly_check.codes import finding
from alembic_readonly_check.command.check import Check
from alembic_readonly_check.compare.comparison import Comparison
from alembic_readonly_check.compare.security import broken_rules
from alembic_readonly_check.compare.sides import CODES, Planner, Side
from alembic_readonly_check.config import secret
from alembic_readonly_check.db import catalog, guard, outside, scratch, scripts, snapshot
from alembic_readonly_check.db.guard import Reader
from alembic_readonly_check.facts import Json, Schema
from alembic_readonly_check.findings import CannotCheck, Finding
from alembic_readonly_check.sources import migrations
from alembic_readonly_check.sources.migrations import Migration
from alembic_readonly_check.sources.models import Models

Compare = Callable[[Schema, str, Planner | None, Schema | None], list[Finding]]


@dataclass(frozen=True, slots=True)
class Live:
    """What the live side said: its facts, its history of migrations, how to ask it more."""

    schema: Schema
    applied: dict[str, Json] | None
    planner: Planner | None


@dataclass(frozen=True, slots=True)
class DatabaseCheck:
    """Compares what a check has read offline with catalogs, and adds the findings to it."""

    check: Check

    @property
    def outside(self) -> bool:
        """Tell whether the migrations are Alembic's or a command's, and no folder of SQL."""
        return bool(self.check.config.scratch.alembic or self.check.config.scratch.command)

    def compare(self, only: frozenset[str] = frozenset({"facts", "migrations"})) -> None:
        """Compare with a scratch and a live database, as far as their variables are set.

        `only` names what is wanted: `facts` of document and models, `migrations`. Raises
        `CannotCheck` if neither a scratch server, a live database nor a snapshot is given.
        """
        scratch_name, live_name = self.check.config.scratch.url_env, self.check.config.url_env
        server = secret(scratch_name)
        live = secret(live_name)
        if not (server or live or self.check.options.snapshot):
            raise CannotCheck(
                f"There is no database: set {live_name} or {scratch_name}, or give --snapshot."
            )
        live_url = guard.driver_url(live, live_name) if live else None
        if not (live or self.check.options.snapshot):
            if self.check.options.require_readonly_role or "facts" not in only:
                raise CannotCheck(f"{live_name} is not set, so there is no live database.")
            self.check.note(f"{live_name} is not set, so no live database was compared")
        held = self.files()
        if server and not (held or self.outside):
            missing = f"{scratch_name} is set and there is no migration to carry out"
            if not (live or self.check.options.snapshot):
                raise CannotCheck(f"{missing}; name their folder in `migrations`, or unset it.")
            self.check.note(missing)
        work = partial(self.with_live, only=only, held=held)
        made: list[Finding] = []
        before = len(self.check.families)
        if server is not None:
            url = guard.driver_url(server, scratch_name)
            if live_url is not None:
                near = scratch.refuse_live(url, scratch_name, (live_name, live_url))
                for one in held:
                    if near and scripts.touches_others(one.path):
                        self.check.note(
                            f"{one.name} names a database or the server, and {scratch_name} leads"
                            f" to the server of {live_name}: what it did there has happened"
                        )
            if "facts" in only and (held or self.outside):
                made = self.with_scratch(url, held)
            self.check.findings += made
            work = partial(work, server=url)
        else:
            self.check.note(f"{scratch_name} is not set, so the migrations were not carried out")
        said = set(map(_fact, made))
        known = len(self.check.findings)
        if self.check.options.snapshot is not None:
            self.check.progress(f"reading {self.check.options.snapshot.name}")
            taken = snapshot.read(self.check.options.snapshot)
            schema = snapshot.facts(taken, self.check.scope(), "database")
            applied = migrations.history(taken.history) if taken.history else None
            work(Live(schema, applied, None))
        elif live_url is not None:
            guard.run(
                live_url,
                live_name,
                self.check.scope().schemas,
                lambda reader: work(self.read_live(reader)),
                self.check.config.timeout,
            )
        if len(self.check.families) == before:
            notes = "".join(f"; {note}" for note in self.check.notes)
            raise CannotCheck(f"No database was compared{notes}.")
        fresh = self.check.findings[known:]
        del self.check.findings[known:]
        self.check.findings += [one for one in fresh if _fact(one) not in said]

    def files(self) -> list[Migration]:
        """List the files of the folder; raises `CannotCheck` if it is configured and empty."""
        config = self.check.config
        held = [] if self.outside else migrations.files(config.path(config.migrations))
        if not (held or self.outside) and config.migrations in config.stated:
            raise CannotCheck(f"{config.migrations} is configured and holds no file *.sql.")
        return held

    def read_live(self, reader: Reader) -> Live:
        """Read a live database, and what its role could do to it."""
        writable = json.loads(reader.ask("writable"))
        if writable:
            message = f"the role {reader.role} may write to {', '.join(writable[:3])}" + (
                f" and {len(writable) - 3} more" if len(writable) > 3 else ""
            )
            if self.check.options.require_readonly_role:
                raise CannotCheck(f"{message[:1].upper()}{message[1:]}.", "RO901")
            self.check.findings.append(
                finding("RO901", reader.role, message, actual=", ".join(writable))
            )
        self.check.progress("reading the catalog")
        schema = catalog.read(reader.ask, self.check.scope(), "database")
        history = snapshot.applied(reader)
        if history is None and reader.ask("history exists") == "forbidden":
            self.check.note(f"the role {reader.role} may not read the history of migrations")
        return Live(schema, migrations.history(history) if history else None, reader)

    def with_live(
        self, live: Live, *, only: frozenset[str], held: list[Migration], server: URL | None = None
    ) -> None:
        """Compare document, models and migrations with the live side."""
        applied = live.applied
        waiting = migrations.pending(held, applied) if applied is not None else []
        if "migrations" in only:
            if self.outside:
                self.check.note(
                    "migrations outside a folder of SQL are not compared with a live database"
                )
            elif applied is None or not (held or applied):
                if held or "facts" not in only:
                    self.check.note("the database keeps no supabase_migrations.schema_migrations")
            else:
                self.check.families.append("MG4")
                self.check.findings += migrations.check(held, applied, self.check.config.folder)
                self.check.compared.append(f"{len(held)} migrations")
        models = self.check.models.schema if self.check.models else None
        behind: list[Finding] = []
        done = [migration for migration in held if migration not in waiting]
        if server is not None and done and ("migrations" in only or waiting):
            self.check.progress("carrying out the applied migrations")
            with self.made(server, done, None) as made:
                expected, behind = self.read_scratch(
                    *(made.migrated, models),
                    self.differences if waiting and "facts" in only else None,
                )
            if "migrations" in only:
                self.check.families.append("MG4")
                self.check.findings += self.run(
                    Comparison(
                        "MG",
                        Side(expected, "migrations"),
                        Side(live.schema, "database"),
                        self.check.rules(),
                        live.planner,
                    )
                )
        if "facts" in only:
            # What waits to be applied is no drift of the live database; another value is.
            known = set(map(_fact, behind))
            found = self.against(live.schema, "database", live.planner, models)
            self.check.findings += [one for one in found if _fact(one) not in known]

    def platform_files(self) -> list[Path]:
        """List what goes first: the configured files, else the script of the platform."""
        config = self.check.config
        own = [config.folder / path for path in config.scratch.platform]
        return own or [path for path in (config.hosting.script,) if path is not None]

    def made(
        self, server: URL, held: list[Migration], models: Models | None
    ) -> AbstractContextManager[scratch.Databases]:
        """Make scratch databases from migrations and, if given, models."""
        config = self.check.config
        return scratch.databases(
            server,
            config.scratch.url_env,
            scratch.Scripts(
                self.platform_files(),
                [migration.path for migration in held],
                config.scratch.role,
                partial(outside.migrate, config) if self.outside else None,
            ),
            models.metadata if models else None,
            config.default_schema,
        )

    def with_scratch(self, server: URL, held: list[Migration]) -> list[Finding]:
        """Compare document and models with what the migrations make."""
        self.check.progress(f"carrying out {len(held) or 'the'} migrations")
        with self.made(server, held, self.check.models) as made:
            models = self.check.models.schema if self.check.models else None
            if made.compiled is not None and models is not None:
                shadow = catalog.Scope(
                    tuple(inner for inner, _ in made.shadows),
                    self.check.config.exclude,
                    made.shadows,
                )
                compiled = guard.run(
                    made.compiled,
                    self.check.config.scratch.url_env,
                    shadow.schemas,
                    lambda reader: catalog.read(reader.ask, shadow, "models"),
                    self.check.config.timeout,
                )
                models = scratch.as_models(compiled, models)
                for refusal in made.refused:
                    self.check.note(f"the server refuses a part of the models: {refusal}")
            _, found = self.read_scratch(made.migrated, models, self.against, self.check.models)
        return found

    def read_scratch(
        self,
        url: URL,
        models: Schema | None,
        compare: Compare | None,
        asked: Models | None = None,
    ) -> tuple[Schema, list[Finding]]:
        """Read a migrated scratch database; `compare` document and models with it.

        Alembic is asked for its opinion of the models that are given as `asked`.
        """
        scope = self.check.scope()

        def work(reader: Reader) -> tuple[Schema, list[Finding]]:
            schema = catalog.read(reader.ask, scope, "migrations")
            found = compare(schema, "migrations", reader, models) if compare else []
            if asked is not None:
                # Alembic is imported only here: a live check needs none of it. It logs on the way.
                logging.getLogger("alembic").setLevel(logging.WARNING)
                from alembic_readonly_check.db import opinion

                found += opinion.findings(
                    reader, asked.metadata, scope, schema, self.check.config.default_schema, found
                )
            return schema, found

        return guard.run(
            url,
            self.check.config.scratch.url_env,
            scope.schemas,
            work,
            self.check.config.timeout,
            reflecting=asked is not None,
        )

    def run(self, comparison: Comparison) -> list[Finding]:
        """Run a comparison, and note what the role of the check could not compare."""
        found = comparison.run()
        for refusal in sorted(comparison.unable):
            self.check.note(f"the role of the check could not compare {refusal}")
            self.check.unable.append(refusal)
        return found

    def against(
        self, held: Schema, label: str, planner: Planner | None, models: Schema | None
    ) -> list[Finding]:
        """Compare document and models with a catalog, and say that they were."""
        for schema, count in held.elsewhere:
            if not self.check.config.is_managed(schema):
                self.check.note(f"schema {schema} of the {label} ({count} objects) is not compared")
        told = {
            n.partition(".")[0] for n in (*held.tables, *(held.views or ()), *(held.enums or ()))
        }
        for schema in self.check.config.schemas:
            if schema not in told:
                self.check.note(f"schema {schema} of the configuration is empty in the {label}")
        if not held.tables:
            missing = f"no table in {', '.join(self.check.scope().schemas)}"
            if label == "migrations" and self.check.config.scratch.command:
                raise CannotCheck(
                    f"The command made {missing} of the scratch database. It may have migrated"
                    f" another one: let it take its URL from {self.check.config.url_env}."
                )
            verb = "hold" if label == "migrations" else "holds"
            raise CannotCheck(f"The {label} {verb} {missing}.")
        if self.check.document is None and models is None:
            self.check.note("there is neither a document nor are there models to compare with")
            return []
        self.check.families += ["SE0", "RO9"]
        self.check.families += ["DC3"] if self.check.document is not None else []
        self.check.families += ["DB2"] if models is not None else []
        self.check.compared.append(f"{len(held.tables)} tables of the {label}")
        return self.differences(held, label, planner, models)

    def differences(
        self, held: Schema, label: str, planner: Planner | None, models: Schema | None
    ) -> list[Finding]:
        """Compare document and models with a catalog; drift that both see is said once."""
        follow = Side(held, label)
        found = list(broken_rules(held))
        rules = replace(self.check.rules(), schemas=self.check.scope().schemas)
        if self.check.document is not None:
            found += self.run(Comparison("DC", self.check.document_side(), follow, rules, planner))
        if models is not None:
            said = {(one.code, one.subject) for one in found if self.check.is_reported(one)}
            twins = {codes["DB"]: codes.get("DC") for codes in CODES.values() if "DB" in codes}
            found += [
                one
                for one in self.run(
                    Comparison("DB", self.check.models_side(models), follow, rules, planner)
                )
                if (twins.get(one.code), one.subject) not in said
            ]
        return found


def _fact(found: Finding) -> tuple[str | None, ...]:
    """Say which fact differs and how, so that one difference of two databases is told once."""
    return found.code, found.subject, found.expected, found.actual
