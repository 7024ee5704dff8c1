"""Write findings for people and for machines; each reporter is one function to one text."""

from collections.abc import Callable, Sequence

from alembic_readonly_check.findings import Finding

STYLES = {"error": "\x1b[31m", "warning": "\x1b[33m", "info": "\x1b[36m"}
BOLD, DIM, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"


def text(findings: Sequence[Finding], colour: bool = False) -> str:
    """One paragraph a finding: place, code, severity, subject, both values, the fix."""
    blocks = []
    for found in findings:
        place = f"{found.location}: " if found.location else ""
        severity, fix = found.severity, f"  fix: {found.fix}" if found.fix else ""
        code = found.code
        if colour:
            severity_text = f"{STYLES[severity]}{severity}{PLAIN}"
            code, fix = f"{BOLD}{code}{PLAIN}", f"{DIM}{fix}{PLAIN}" if fix else ""
        else:
            severity_text = severity
        lines = [found.heading] if found.heading else []
        lines.append(f"{place}{code} {severity_text} {found.subject}: {found.message}")
        if fix:
            lines.append(fix)
        blocks.append("\n".join(lines) + "\n")
    return "".join(blocks)


Reporter = Callable[[Sequence[Finding]], str]
