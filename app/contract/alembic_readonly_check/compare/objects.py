"""Compare what is not a table, kind by kind."""

from dataclasses import dataclass
from typing import Any

from alembic_readonly_check.compare.access import Access
from alembic_readonly_check.compare.pairing import T, pairs
from alembic_readonly_check.facts import Domain, Other
from alembic_readonly_check.sql.expressions import Scope, canonical, query_shape
from alembic_readonly_check.sql.types import bare


@dataclass(slots=True)
class Objects(Access):
    """Enums, domains, sequences, functions, views, extensions, publications and the rest."""

    def objects(self) -> None:
        """Compare what is not a table, kind by kind, where both sides know the kind."""
        lead, follow = self.lead.schema, self.follow.schema
        for name, one, other in pairs(*_known(lead.enums, follow.enums)):
            if self.covers(name, one, other) and (one and one.values) != (other and other.values):
                self.say("enum", name, one, other)
        for name, mine, theirs in pairs(*_known(lead.domains, follow.domains)):
            if self.covers(name, mine, theirs) and not self.same_domain(mine, theirs):
                self.say("domain", name, mine, theirs)
        if self.family == "DB":
            self.mapped_sequences()
        else:
            self.kind("sequence", lead.sequences, follow.sequences)
        self.functions()
        self.views()
        self.extensions()
        self.publications()
        self.others()

    def others(self) -> None:
        """Compare the rest between catalogs; against a document, say that nothing compares it."""
        lead, follow = self.lead.schema, self.follow.schema
        if self.deep:
            self.kind("sequence", lead.owned_sequences, follow.owned_sequences)
            mine = {(held.kind, held.name): held.definition for held in lead.others}
            theirs = {(held.kind, held.name): held.definition for held in follow.others}
            for (kind, name), one, other in pairs(mine, theirs):
                if one != other and not (
                    (one is None or other is None) and self.hosted(kind, name)
                ):
                    self.say("other", name, one, other, f"{kind} differs")
        elif self.family == "DC":
            for held in follow.others:
                if held.kind not in ("attribute", "comment", "schema") and not (
                    self.hosted(held.kind, held.name) or _opens_nothing(held)
                ):
                    what = f"{held.kind} that no document compares"
                    self.say("other", held.name, None, held.definition, what)

    def mapped_sequences(self) -> None:
        """Compare the sequences that models name, and how their identities count."""
        lead, follow = self.lead.schema, self.follow.schema
        held = {**follow.owned_sequences, **(follow.sequences or {})}
        for name, mine in (lead.sequences or {}).items():
            theirs = held.get(name)
            if theirs is None or str(mine) != str(theirs):
                self.say("sequence", name, mine, theirs)
        columns = {one.owned_by: one for one in follow.owned_sequences.values()}
        for subject, mine in lead.owned_sequences.items():
            table, _, name = subject.rpartition(".")
            column = table in follow.tables and follow.tables[table].column(name)
            theirs = columns.get(subject)
            if column and column.identity and theirs and str(mine) != str(theirs):
                self.say("generated", subject, mine, theirs, "identity differs")

    def hosted(self, kind: str, name: str) -> bool:
        """Tell default privileges that the platform's own roles gave."""
        return kind == "default privileges" and _owner(name) in self.rules.hosting.roles

    def covers(self, name: str, wanted: object, held: object) -> bool:
        """Leave out types that one side need not name: models know only what they map."""
        if self.rules.schemas and name.partition(".")[0] not in self.rules.schemas:
            return False
        if self.family == "DM" and held is None:
            return any(
                column.type.removesuffix("[]").replace('"', "") == name
                for table in self.lead.schema.tables.values()
                if table.name in self.follow.schema.tables
                for column in table.columns
            )
        return (self.family != "DB" and self.family != "DM") or wanted is not None

    def same_domain(self, mine: Domain | None, theirs: Domain | None) -> bool:
        if mine is None or theirs is None:
            return False
        names = Scope("", (("value", theirs.type),), self.rules.default_schema, self.deep)
        return (
            bare(mine.type) == bare(theirs.type)
            and mine.nullable == theirs.nullable
            and mine.collation == theirs.collation
            and self.equal(mine.default, theirs.default, names, mine.type)
            and len(mine.checks) == len(theirs.checks)
            and all(
                one.valid == other.valid
                and (one.name is None or one.name == other.name)
                and canonical(one.expression, names) == canonical(other.expression, names)
                for one, other in zip(
                    sorted(mine.checks, key=lambda c: c.name or ""),
                    sorted(theirs.checks, key=lambda c: c.name or ""),
                    strict=True,
                )
            )
        )

    def kind(self, kind: str, mine: dict[str, T] | None, theirs: dict[str, T] | None) -> None:
        """Compare objects that are equal when they are written the same."""
        for name, one, other in pairs(*_known(mine, theirs)):
            if (one and str(one)) != (other and str(other)):
                self.say(kind, name, one, other)

    def functions(self) -> None:
        """Compare functions; the lines of triggers name those that return one."""
        mine, theirs = _known(self.lead.schema.functions, self.follow.schema.functions)
        for name, one, other in pairs(mine, theirs):
            if one is None and other is not None and other.returns == "trigger" and not self.deep:
                continue
            if (one and str(one)) != (other and str(other)):
                self.say("function", name, one, other)
            elif self.deep and one and other and one.body != other.body:
                self.say("function", name, one.body, other.body, "function differs inside")

    def views(self) -> None:
        """Compare views: what they show, and between catalogs how they find it."""
        for name, one, other in pairs(*_known(self.lead.schema.views, self.follow.schema.views)):
            if one is None or other is None or str(one) != str(other):
                self.say("view", name, one, other)
                continue
            if self.deep and (
                one.extra != other.extra
                or self.query(one.definition) != self.query(other.definition)
            ):
                mine, theirs = (f"{view.definition} {view.extra}" for view in (one, other))
                self.say("view", name, mine, theirs, "view differs inside")
            if one.grants is not None and other.grants is not None:
                self.grants(name, one.grants, other.grants)

    def query(self, text: str | None) -> object:
        return query_shape(text or "", Scope("", (), self.rules.default_schema, self.deep))

    def extensions(self) -> None:
        """Compare extensions; the platform adds and moves its own, which no migration does."""
        mine, theirs = _known(self.lead.schema.extensions, self.follow.schema.extensions)
        for name, one, other in pairs(mine, theirs):
            hosted = name in self.rules.hosting.extensions
            if hosted if self.deep else one is None and (hosted or name == "plpgsql"):
                continue
            moved = one and other and one.schema is not None and one.schema != other.schema
            if one is None or other is None or moved:
                self.say("extension", name, one, other)

    def publications(self) -> None:
        """Compare publications; the platform's own count once they carry a table."""
        mine, theirs = _known(self.lead.schema.publications, self.follow.schema.publications)
        for name, one, other in pairs(mine, theirs):
            tables = [held.tables if held else () for held in (one, other)]
            if name in self.rules.hosting.publications and not any(tables):
                continue
            if tables[0] != tables[1] or (self.deep and one != other):
                self.say("publication", name, one, other)


def _known(mine: dict[str, T] | None, theirs: dict[str, T] | None) -> tuple[Any, Any]:
    """Give both sides of a kind that both know, else nothing."""
    return ({}, {}) if mine is None or theirs is None else (mine, theirs)


def _owner(name: str) -> str:
    """Take the role out of the name of default privileges: `public of owner tables`."""
    return name.partition(" of ")[2].rpartition(" ")[0]


def _opens_nothing(held: Other) -> bool:
    """Tell default privileges that leave new objects to their owner alone.

    Nobody gains by them, and an object that lacks them shows by its own grants.
    """
    grants = (held.definition or "").split()
    return held.kind == "default privileges" and all(
        grant.rpartition("=")[0] == _owner(held.name) for grant in grants
    )
