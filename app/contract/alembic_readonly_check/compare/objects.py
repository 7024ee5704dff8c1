"""Compare what is not a table, kind by kind."""

from dataclasses import dataclass

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
        if lead.enums is not None and follow.enums is not None:
            for name, one, other in pairs(lead.enums, follow.enums):
                if self.covers(name, one, other) and (one and one.values) != (
                    other and other.values
                ):
                    self.say(
                        "enum", name, "enum differs", one, other, at=one.location if one else None
                    )
        if lead.domains is not None and follow.domains is not None:
            for name, mine, theirs in pairs(lead.domains, follow.domains):
                if self.covers(name, mine, theirs) and not self.same_domain(mine, theirs):
                    self.say(
                        "domain",
                        name,
                        "domain differs",
                        mine,
                        theirs,
                        at=mine.location if mine else None,
                    )
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
                    self.say("other", name, f"{kind} differs", one, other)
        elif self.family == "DC":
            for held in follow.others:
                if held.kind not in ("attribute", "comment", "schema") and not (
                    self.hosted(held.kind, held.name) or _opens_nothing(held)
                ):
                    what = f"{held.kind} that no document compares"
                    self.say("other", held.name, what, None, held.definition)

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
        names = Scope("", (("value", theirs.type),), self.rules.default_schema)
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
        if mine is None or theirs is None:
            return
        for name, one, other in pairs(mine, theirs):
            if (one and str(one)) != (other and str(other)):
                self.say(
                    kind, name, f"{kind} differs", one, other, at=getattr(one, "location", None)
                )

    def functions(self) -> None:
        mine, theirs = self.lead.schema.functions, self.follow.schema.functions
        if mine is None or theirs is None:
            return
        for name, one, other in pairs(mine, theirs):
            if one is None and other is not None and other.returns == "trigger" and not self.deep:
                continue  # The lines of triggers name it.
            if (one and str(one)) != (other and str(other)):
                self.say(
                    "function",
                    name,
                    "function differs",
                    one,
                    other,
                    at=one.location if one else None,
                )
            elif self.deep and one and other and one.body != other.body:
                self.say("function", name, "function differs inside", one.body, other.body)

    def views(self) -> None:
        mine, theirs = self.lead.schema.views, self.follow.schema.views
        if mine is None or theirs is None:
            return
        for name, one, other in pairs(mine, theirs):
            if one is None or other is None or str(one) != str(other):
                self.say("view", name, "view differs", one, other, at=one.location if one else None)
                continue
            if self.deep and (
                one.extra != other.extra
                or self.query(one.definition) != self.query(other.definition)
            ):
                self.say(
                    "view",
                    name,
                    "view differs inside",
                    f"{one.definition} {one.extra}",
                    f"{other.definition} {other.extra}",
                )
            if one.grants is not None and other.grants is not None:
                self.grants(name, one.grants, other.grants, one.location)

    def query(self, text: str | None) -> object:
        return query_shape(text or "", self.rules.default_schema)

    def extensions(self) -> None:
        mine, theirs = self.lead.schema.extensions, self.follow.schema.extensions
        if mine is None or theirs is None:
            return
        for name, one, other in pairs(mine, theirs):
            hosted = name in self.rules.hosting.extensions
            if one is None and not self.deep and (hosted or name in self.rules.ignore_extensions):
                continue
            if self.deep and hosted:
                continue  # The platform adds and moves them; no migration does.
            moved = one and other and one.schema is not None and one.schema != other.schema
            if one is None or other is None or moved:
                self.say(
                    "extension",
                    name,
                    "extension differs",
                    one,
                    other,
                    at=one.location if one else None,
                )

    def publications(self) -> None:
        mine, theirs = self.lead.schema.publications, self.follow.schema.publications
        if mine is None or theirs is None:
            return
        for name, one, other in pairs(mine, theirs):
            if name in self.rules.hosting.publications and not (
                (one and one.tables) or (other and other.tables)
            ):
                continue
            if (one.tables if one else ()) != (other.tables if other else ()) or (
                self.deep and one != other
            ):
                self.say(
                    "publication",
                    name,
                    "publication differs",
                    one,
                    other,
                    at=one.location if one else None,
                )


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
