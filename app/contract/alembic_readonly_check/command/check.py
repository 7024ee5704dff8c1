"""One run of the check: read what the configuration names, compare every pair that is there."""

import datetime as dt
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from alembic_readonly_check.api.columns import check_columns
from alembic_readonly_check.api.external import check_external
from alembic_readonly_check.command.reporters import Report
from alembic_readonly_check.compare.comparison import Comparison
from alembic_readonly_check.compare.sides import Rules, Side
from alembic_readonly_check.config import Config
from alembic_readonly_check.db import catalog
from alembic_readonly_check.facts import Schema
from alembic_readonly_check.findings import CannotCheck, Finding, Location, ordered, relative
from alembic_readonly_check.openapi.contract import Contract, load_contract
from alembic_readonly_check.sources.document import datamodel
from alembic_readonly_check.sources.document.datamodel import Document
from alembic_readonly_check.sources.loading import load
from alembic_readonly_check.sources.migrations import read as read_text

if TYPE_CHECKING:
    from alembic_readonly_check.api.served import Route
    from alembic_readonly_check.sources.models import Models

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line adds to the configuration; empty means as configured."""

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    snapshot: Path | None = None
    strict_coverage: bool = False
    require_readonly_role: bool = False


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
    models: "Models | None" = None
    described: Contract | None = None
    families: list[str] = field(default_factory=list)
    unable: list[str] = field(default_factory=list)
    today: dt.date = field(default_factory=dt.date.today)

    # ------------------------------------------------------------------ offline

    def docs(self, required: bool = False) -> None:
        """Read datamodel.md and report what is wrong with it."""
        path = self.config.path(self.config.datamodel)
        if path is None:
            if required:
                raise CannotCheck(f"{self.config.datamodel} is not there; `doctor` says what is.")
            self.note("datamodel.md is not there, so nothing is compared with it")
            return
        self.progress(f"reading {self.config.datamodel}")
        self.document = datamodel.read(
            path, self.config.folder, self.config.default_schema, self.config.rls
        )
        self.findings += self.document.findings
        self.families.append("DM0")
        self.compared.append(f"{len(self.document.schema.tables)} tables of {self.document.path}")

    def mapped(self, required: bool = False) -> None:
        """Read the models."""
        if self.config.metadata is None:
            if required:
                raise CannotCheck("No models are named: set metadata, or give --metadata mod:attr.")
            self.note("no models are named, so nothing is compared with them")
            return
        # SQLAlchemy and Litestar are imported only for models and app: documents need neither.
        from alembic_readonly_check.sources import models

        self.progress(f"importing {self.config.metadata}")
        self.models = models.read(
            self.config.metadata,
            self.config.folder,
            self.config.default_schema,
            self.is_compared,
            catalog.Scope((), self.config.exclude).excludes,
        )
        tables = self.models.metadata.tables.values()
        for schema in sorted({table.schema or self.config.default_schema for table in tables}):
            if not (self.is_compared(schema) or self.config.is_managed(schema)):
                self.note(f"the models' tables of schema {schema} are not compared")
        self.compared.append(f"{len(self.models.schema.tables)} tables of {self.config.metadata}")

    def offline(self) -> None:
        """Compare the document with the models."""
        if self.document is not None and self.models is not None:
            self.families.append("DM1")
            self.findings += Comparison(
                "DM", self.document_side(), self.models_side(self.models.schema), self.rules()
            ).run()

    def contract(self, required: bool = False) -> None:
        """Check openapi.yaml against datamodel.md and external_apis.md."""
        path = self.config.path(self.config.openapi)
        if path is None:
            if required:
                raise CannotCheck(f"{self.config.openapi} is not there; `doctor` says what is.")
            self.note("openapi.yaml is not there, so nothing is compared with it")
            return
        self.progress(f"reading {self.config.openapi}")
        self.described = load_contract(path, self.config.folder)
        rules = self.config.api
        if self.document is not None:
            self.families.append("AC7")
            self.findings += check_columns(
                self.described,
                self.document.schema,
                rules,
                self.config.default_schema,
                self.config.hosting.schemas,
            )
        external = self.config.path(self.config.external_apis)
        self.families += ["EX8"] if external is not None else []
        self.findings += check_external(
            self.described,
            read_text(external) if external else None,
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
        self.needs_extra()
        from alembic_readonly_check.api.routes import check_routes
        from alembic_readonly_check.api.structs import check_structs

        routes = self.routes()
        self.families += ["AR5", "AS6"]
        self.findings += check_routes(self.described, routes, self.config.api)
        self.findings += check_structs(self.described, routes, self.config.folder)

    def needs_extra(self) -> None:
        """Raise `CannotCheck` where what reads an app is not installed."""
        if not (find_spec("litestar") and find_spec("msgspec")):
            raise CannotCheck("Comparing an app takes more: install alembic-readonly-check[api].")

    def routes(self) -> "list[Route]":
        """Import the app, or let its function make it, and list its routes."""
        self.needs_extra()
        from litestar import Litestar

        from alembic_readonly_check.api.served import routes_of

        target = str(self.config.app)
        self.progress(f"importing {target}")
        app = load(target, self.config.folder)
        if (framework := type(app).__name__) in ("FastAPI", "Starlette", "Flask"):
            raise CannotCheck(
                f"{target} is a {framework} app; only Litestar is read: remove `app`."
            )
        if not isinstance(app, Litestar) and callable(app):
            try:
                with redirect_stdout(sys.stderr):
                    app = app()
            except (Exception, SystemExit) as error:
                raise CannotCheck(
                    f"{target} makes no app: {type(error).__name__}: {error}."
                ) from error
        if not isinstance(app, Litestar):
            raise CannotCheck(f"{target} is not a Litestar app, nor does it make one.")
        routes = routes_of(app, self.config.folder)
        count = sum(route.method != "OPTIONS" for route in routes)
        self.compared.append(f"{count} routes of {target}")
        return routes

    def note(self, text: str) -> None:
        """Remember what was left out, so that nobody takes silence for agreement."""
        if text not in self.notes:
            self.notes.append(text)

    def rules(self) -> Rules:
        """Read the rules of comparison off the configuration."""
        return Rules(
            self.config.default_schema,
            self.config.rolling_partitions,
            self.config.hosting,
        )

    def is_compared(self, schema: str) -> bool:
        """Tell whether the tables of a schema are the project's own."""
        if self.config.schemas:
            return schema in self.config.schemas
        return not self.config.is_managed(schema)

    def scope(self) -> catalog.Scope:
        """Compare the configured schemas, else those that the document and the models name."""
        sources = (self.document and self.document.schema, self.models and self.models.schema)
        named = {
            name.partition(".")[0]
            for held in sources
            if held
            for name in (*held.tables, *(held.enums or ()), *(held.domains or ()))
        }
        own = (schema for schema in sorted(named) if not self.config.is_managed(schema))
        schemas = self.config.schemas or tuple(own)
        if not schemas:
            raise CannotCheck("There is no schema to compare: give a document, models or schemas.")
        return catalog.Scope(schemas, self.config.exclude)

    def document_side(self) -> Side:
        """Stand the document on a side of a comparison."""
        if self.document is None:
            raise CannotCheck("There is no datamodel.md to compare.")
        schema = self.described_schema(self.document.schema)
        tables = schema.tables

        def locate(table: str, column: str | None) -> Location | None:
            held = tables.get(table)
            found = held.column(column) if held is not None and column is not None else held
            return found.location if found is not None else None

        return Side(schema, "document", locate, self.document.is_unreadable)

    def described_schema(self, schema: Schema) -> Schema:
        """Leave out what the document says of schemas that are not compared, and note it."""

        def compared(named: dict[str, T] | None) -> dict[str, T]:
            return {n: o for n, o in (named or {}).items() if self.is_compared(n.partition(".")[0])}

        tables = compared(schema.tables)
        if left := {name.partition(".")[0] for name in schema.tables.keys() - tables.keys()}:
            named = ", ".join(sorted(left))
            self.note(f"the document's tables of schema {named} are not compared")
        if not tables:
            raise CannotCheck(f"The document has no table of {', '.join(self.scope().schemas)}.")
        publications = {
            name: replace(
                held,
                tables=tuple(t for t in held.tables if self.is_compared(t.partition(".")[0])),
            )
            for name, held in (schema.publications or {}).items()
        }
        return replace(
            schema,
            tables=tables,
            sequences=compared(schema.sequences),
            views=compared(schema.views),
            functions=compared(schema.functions),
            publications=publications,
        )

    def models_side(self, schema: Schema) -> Side:
        """Stand the models, in their own or the server's spelling, on a side of a comparison."""
        if self.models is None:
            raise CannotCheck("There are no models to compare.")
        return Side(schema, "model", self.models.locate)

    # ------------------------------------------------------------------ the result

    def is_reported(self, found: Finding) -> bool:
        """Tell whether a finding's code, or its family, is wanted and no ignore covers it."""
        options = self.options
        return (
            (not options.select or found.code.startswith(options.select))
            and not (options.ignore and found.code.startswith(options.ignore))
            and not any(ignore.covers(found, self.today) for ignore in self.config.ignore)
        )

    def refuse_unselected(self) -> None:
        """Raise `CannotCheck` if nothing was compared that the command line selects."""
        unseen = [
            code
            for code in self.options.select
            if not any(f.startswith(code) or code.startswith(f) for f in self.families)
        ]
        if unseen and len(unseen) == len(self.options.select):
            raise CannotCheck(f"Nothing was compared that {', '.join(unseen)} could be found in.")
        for code in unseen:
            self.note(f"nothing was compared that {code} could be found in")

    def report(self) -> Report:
        """Leave out what is not selected, or is ignored, and sort the rest.

        Raises `CannotCheck` if nothing was compared: that is no agreement.
        """
        if not self.families:
            raise CannotCheck(
                f"Nothing was compared: {' and '.join(self.compared) or 'nothing'} is all there is."
                f" Set {self.config.scratch.url_env} or {self.config.url_env}, or see `doctor`."
            )
        self.refuse_unselected()
        if self.described is not None and self.described.unread:
            words = ", ".join(sorted(self.described.unread))
            self.note(f"{self.described.path} uses {words}, which nothing is compared with")
        found = [one for one in set(self.findings) if self.is_reported(one)]
        for ignore in self.config.ignore:
            if self.today > ignore.until:
                self.note(f"the ignore of {ignore.code} {ignore.subject} ended on {ignore.until}")
        if self.options.strict_coverage:
            found = [
                replace(one, severity="error") if one.code == "DC390" else one for one in found
            ]
        home = relative(Path(self.config.source or "pyproject.toml"), self.config.folder)
        compared = dict.fromkeys(self.compared)
        return Report(tuple(ordered(found)), tuple(compared), tuple(self.notes), home)
