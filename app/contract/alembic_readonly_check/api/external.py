"""EX8xx: hold docs/external_apis.md to the operations that integrate other systems.

An operation names each system that it waits for: `x-external-api: billing`, or a list. The document
has one section a system, with one bullet a fact; other bullets and prose are free:

    ## billing
    - Base URL: `https://billing.example/v2`, from the setting BILLING_URL
    - Authentication: bearer token, from the setting BILLING_TOKEN
    - Operations: `POST /charges`, `GET /charges/{id}`
    - Failure: 503 to the caller after two retries
    - Timeout: 5 s

A system that no operation waits for says who calls it: `- Used by: the nightly report`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

from alembic_readonly_check.codes import finding
from alembic_readonly_check.config import ApiRules
from alembic_readonly_check.findings import Finding, Location
from alembic_readonly_check.openapi.contract import Contract, Operation

FACTS: Final = ("Base URL", "Authentication", "Operations", "Failure", "Timeout")
_BULLET: Final = re.compile(r"\**([^:*`]+?)\**\s*:\**\s*(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Section:
    """A system as the document describes it: the text and the line of each bullet, by its fact."""

    name: str
    line: int
    facts: dict[str, list[tuple[str, int]]]


def check_external(
    contract: Contract, text: str | None, path: str, rules: ApiRules
) -> list[Finding]:
    """Compare the sections of external_apis.md with the contract: EX801 to EX803."""
    sections: dict[str, _Section] = {}
    findings: list[Finding] = []
    for section in _sections(text or ""):
        if section.name in sections:
            findings.append(_wrong(section, "the section", "stands twice", section.line, path))
        sections[section.name] = section
    carriers: dict[str, list[Operation]] = {}
    for operation in contract.operations:
        stated = operation.node.value.get(rules.external_extension)
        for name in stated if isinstance(stated, list) else [stated]:
            if name is not None:
                carriers.setdefault(str(name), []).append(operation)
    for name, operations in carriers.items():
        if name not in sections:
            findings.append(_no_section(contract, name, operations, path, rules))
    for section in sections.values():
        users = carriers.get(section.name, [])
        findings += _lacking(section, users, path)
        if not users and not any(told for told, _ in section.facts.get("used by", [])):
            findings.append(
                finding(
                    "EX803",
                    section.name,
                    f"no operation has {rules.external_extension}: {section.name}, and no bullet"
                    " `Used by` says who else calls it",
                    Location(path, section.line),
                )
            )
    return findings


def _sections(text: str) -> Iterator[_Section]:
    """Take the second-level headings, and the bullets of lists that stand right below them."""
    section: _Section | None = None
    tokens = MarkdownIt("commonmark").parse(text)
    for position, token in enumerate(tokens):
        if token.type == "heading_open" and token.level == 0:
            if section is not None:
                yield section
            section = None
            if token.tag == "h2":
                name = tokens[position + 1].content.strip().strip("`").strip()
                section = _Section(name, _line(token), {})
        elif token.type == "inline" and token.level == 3 and section is not None:
            match = _BULLET.fullmatch(token.content)
            if match:
                held = section.facts.setdefault(match[1].strip().lower(), [])
                held.append((match[2].strip(), _line(token)))
    if section is not None:
        yield section


def _line(token: Token) -> int:
    return token.map[0] + 1 if token.map else 1


def _blocked(operations: Sequence[Operation], name: str) -> str:
    called = ", ".join(operation.name for operation in operations)
    return f"BLOCKED: external_apis.md incomplete - {called} integrates {name}"


def _no_section(
    contract: Contract, name: str, operations: list[Operation], path: str, rules: ApiRules
) -> Finding:
    pointer = operations[0].node.child(rules.external_extension).pointer
    return finding(
        "EX801",
        name,
        f"{path} has no section `## {name}`",
        contract.location(pointer),
        expected=f"## {name}",
        heading=_blocked(operations, name),
    )


def _lacking(section: _Section, operations: list[Operation], path: str) -> Iterator[Finding]:
    for fact in FACTS:
        held = section.facts.get(fact.lower(), [])
        if len(held) != 1 or not held[0][0]:
            wrong = "is missing" if not held else "is empty" if len(held) == 1 else "stands twice"
            line = held[-1][1] if held else section.line
            yield _wrong(section, fact, wrong, line, path, operations)


def _wrong(
    section: _Section,
    fact: str,
    wrong: str,
    line: int,
    path: str,
    operations: Sequence[Operation] = (),
) -> Finding:
    return finding(
        "EX802",
        f"{section.name} {fact}",
        f"{fact} {wrong}",
        Location(path, line),
        heading=_blocked(operations, section.name) if operations else None,
    )
