"""The command `alembic-readonly-check`."""

import datetime as dt
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import rich_click as click
from sqlalchemy.engine import URL

from alembic_readonly_check import catalog, datamodel, guard, metadata, reporters, scratch
from alembic_readonly_check.compare import Comparison, Planner, Rules, Side
from alembic_readonly_check.config import Config, load, secret
from alembic_readonly_check.datamodel import Document
from alembic_readonly_check.facts import Schema
from alembic_readonly_check.findings import SEVERITIES, CannotCheck, Finding, ordered
from alembic_readonly_check.metadata import Models


@dataclass(slots=True)
class Check:
    """One run: what was read, what was compared, what was found."""

    config: Config
    findings: list[Finding] = field(default_factory=list)
    compared: list[str] = field(default_factory=list)
    document: Document | None = None
    models: Models | None = None

    @property
    def rules(self) -> Rules:
        return Rules(
            self.config.default_schema, self.config.ignore_grantees, self.config.ignore_extensions
        )

    def scope(self) -> catalog.Scope:
        """Compare the configured schemas, else those that the document and the models name."""
        named = self.config.schemas or tuple(
            sorted(
                {
                    name.partition(".")[0]
                    for schema in (
                        self.document.schema if self.document else None,
                        self.models.schema if self.models else None,
                    )
                    if schema is not None
                    for name in schema.tables
                }
                - set(self.config.managed_schemas)
            )
        )
        if not named:
            raise CannotCheck("No schema to compare: set schemas, or give a document or models.")
        return catalog.Scope(named, self.config.exclude)

    def docs(self) -> None:
        """Read datamodel.md and report what is wrong with it."""
        path = self.config.path(self.config.datamodel)
        if path is None:
            return
        self.document = datamodel.read(
            path, self.config.folder, self.config.default_schema, self.config.rls
        )
        self.findings += self.document.findings
        self.compared.append(f"{len(self.document.schema.tables)} tables of {self.document.path}")

    def mapped(self) -> None:
        """Read the models."""
        if self.config.metadata is None:
            return
        self.models = metadata.read(
            self.config.metadata, self.config.folder, self.config.default_schema
        )
        self.compared.append(f"{len(self.models.schema.tables)} tables of {self.config.metadata}")

    def offline(self) -> None:
        """Compare the document with the models."""
        if self.document is not None and self.models is not None:
            self.findings += Comparison(
                "DM", self.document_side(), self.models_side(self.models.schema), self.rules
            ).run()

    def document_side(self) -> Side:
        if self.document is None:
            raise CannotCheck("There is no datamodel.md to compare.")
        tables = self.document.schema.tables

        def locate(table: str, column: str | None) -> Any:
            held = tables.get(table)
            if held is None or column is None:
                return held.location if held else None
            found = held.column(column)
            return found.location if found else None

        return Side(self.document.schema, "document", locate)

    def models_side(self, schema: Schema) -> Side:
        if self.models is None:
            raise CannotCheck("There are no models to compare.")
        return Side(schema, "model", self.models.locate)

    def against(self, held: Schema, label: str, planner: Planner | None, models: Schema | None) -> None:
        """Compare models and document with a catalog."""
        follow = Side(held, label)
        if self.document is not None:
            self.findings += Comparison(
                "DC", self.document_side(), follow, self.rules, planner
            ).run()
        if models is not None:
            self.findings += Comparison(
                "DB", self.models_side(models), follow, self.rules, planner
            ).run()
        self.compared.append(f"{len(held.tables)} tables of the {label}")

    def scratch(self, live: tuple[str, URL] | None) -> None:
        """Build the migrations and the models in scratch databases and compare."""
        name = self.config.scratch.url_env
        server = guard.driver_url(secret(name) or "", name)
        folder = self.config.path(self.config.migrations)
        files = sorted(folder.glob("*.sql")) if folder else []
        if not files:
            raise CannotCheck(f"{self.config.migrations} holds no migration.")
        platform = [self.config.folder / path for path in self.config.scratch.platform]
        scope = self.scope()
        with scratch.databases(
            server,
            name,
            platform,
            files,
            self.config.scratch.role,
            self.models.metadata if self.models else None,
            self.config.default_schema,
            live,
        ) as made:
            models = self.models.schema if self.models else None
            if made.compiled is not None and models is not None:
                shadow = catalog.Scope(
                    tuple(inner for inner, _ in made.shadows), scope.exclude, made.shadows
                )
                compiled = guard.run(
                    made.compiled,
                    name,
                    shadow.schemas,
                    lambda reader: catalog.read(reader.ask, shadow, "models"),
                    self.config.timeout,
                )
                models = scratch.as_models(compiled, models)
            guard.run(
                made.migrated,
                name,
                scope.schemas,
                lambda reader: self.against(
                    catalog.read(reader.ask, scope, "migrations"), "migrations", reader, models
                ),
                self.config.timeout,
            )

    def live(self, name: str, url: URL) -> None:
        """Compare a live database inside its guarded transaction."""
        scope = self.scope()
        guard.run(
            url,
            name,
            scope.schemas,
            lambda reader: self.against(
                catalog.read(reader.ask, scope, "database"),
                "database",
                reader,
                self.models.schema if self.models else None,
            ),
            self.config.timeout,
        )


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("what", default="all")
@click.option("--metadata", "metadata_", metavar="MOD:ATTR")
@click.option("--url-env", metavar="NAME")
@click.option("--scratch-url-env", metavar="NAME")
def main(
    what: str, metadata_: str | None, url_env: str | None, scratch_url_env: str | None
) -> None:
    """Prove that documents, models, migrations and a database agree, without writing a byte."""
    try:
        config = load(Path.cwd())
        if metadata_:
            config = msgspec.structs.replace(config, metadata=metadata_)
        if url_env:
            config = msgspec.structs.replace(config, url_env=url_env)
        if scratch_url_env:
            config = msgspec.structs.replace(
                config, scratch=msgspec.structs.replace(config.scratch, url_env=scratch_url_env)
            )
        check = Check(config)
        check.docs()
        check.mapped()
        check.offline()
        live_value = secret(config.url_env)
        live = (
            (config.url_env, guard.driver_url(live_value, config.url_env)) if live_value else None
        )
        if secret(config.scratch.url_env):
            check.scratch(live)
        if live is not None:
            check.live(*live)
        if not check.compared:
            raise CannotCheck("Nothing was compared: neither documents nor models were found.")
    except CannotCheck as error:
        click.echo(f"alembic-readonly-check: {error.code or ''} {error}".replace(":  ", ": "), err=True)
        sys.exit(2)
    found = ordered(check.findings)
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    click.echo(reporters.text(found, colour), nl=False)
    counts = Counter(finding.severity for finding in found)
    click.echo(
        f"{', '.join(check.compared)}: "
        + (", ".join(f"{counts[s]} {s}" for s in SEVERITIES if counts[s]) or "no drift"),
    )
    sys.exit(1 if counts["error"] else 0)
