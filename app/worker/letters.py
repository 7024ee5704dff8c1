"""What a mail says: templates in several languages, filled with names that people chose.

Workspaces, people and roles are named by users, and a mail carries the operator's good name. So
names are cut and cleaned here, and nothing in them becomes markup, a link or a header.
"""

import html
import re
import unicodedata
from collections.abc import Mapping
from email.headerregistry import Address, HeaderRegistry, UnstructuredHeader
from email.message import EmailMessage
from email.policy import SMTP, EmailPolicy
from email.utils import parseaddr
from pathlib import Path
from string import Template
from typing import Protocol, Self

import msgspec

from app.settings import SettingsError

FOLDER = Path(__file__).parent / "templates"
FALLBACK = "en"
ITEM_NAMES = {"workspace", "title", "body", "count", "url"}
NAMES = {
    "invitation": {"workspace", "inviter", "role", "url", "expires"},
    "notification": {*ITEM_NAMES, "unsubscribe"},
    "critical": ITEM_NAMES,
}
"""What a template of each kind may name as `$name`."""
SUBJECT = "Subject: "
MAX_NAME, MAX_SUBJECT = 60, 120
MAX_TITLE, MAX_BODY = 120, 500
FILE = re.compile(r"([a-z]+)\.([A-Za-z0-9-]+)\.(txt|html)")
# What mail clients make a link of without being asked: a scheme, an address, a dotted name.
LINKED = re.compile(r"://|@|\w[.\u3002]\w|(?i:\bwww\b|\b(?:mailto|tel|javascript|data):)")


class Letter(msgspec.Struct, frozen=True):
    """The templates of one language."""

    subject: Template
    text: Template
    html: Template


class Letters(msgspec.Struct, frozen=True):
    """The templates of one kind in all languages, by language tag in lower case."""

    by_locale: Mapping[str, Letter]

    @classmethod
    def read(cls, overrides: str | None = None, kind: str = "invitation") -> Self:
        """Read Annex's own templates and those of a folder, which take their place file by file.

        Raises `SettingsError` for one that cannot be filled, or that lacks its other half.
        """
        files: dict[tuple[str, str], str] = {}
        for folder in (FOLDER, *([Path(overrides)] if overrides else [])):
            for path in sorted(folder.iterdir()):
                if (match := FILE.fullmatch(path.name)) and match[1] == kind:
                    files[match[2].lower(), match[3]] = path.read_text("utf-8")
        found = {}
        for locale in {locale for locale, _ in files}:
            name = f"ANNEX_MAIL_TEMPLATES: {kind}.{locale}"
            try:
                first, _, text = files[locale, "txt"].partition("\n")
                parts = Letter(
                    Template(first.removeprefix(SUBJECT).strip()),
                    Template(text.lstrip("\n")),
                    Template(files[locale, "html"]),
                )
            except KeyError as missing:
                raise SettingsError(f"{name} has no {missing.args[0][1]} file.") from None
            if not first.startswith(SUBJECT):
                raise SettingsError(f"{name}.txt does not begin with a line `{SUBJECT}…`.")
            for template in (parts.subject, parts.text, parts.html):
                if not template.is_valid() or set(template.get_identifiers()) - NAMES[kind]:
                    raise SettingsError(
                        f"{name} names something else than {', '.join(sorted(NAMES[kind]))}; "
                        "write $$ for a dollar sign."
                    )
            found[locale] = parts
        return cls(found)

    def of(self, locale: str | None) -> Letter:
        """Find the templates of a BCP 47 tag, of its language, or the English ones."""
        tag = (locale or "").lower()
        while tag and tag not in self.by_locale:
            tag = tag.rpartition("-")[0]
        return self.by_locale[tag or FALLBACK]


class Told(Protocol):
    """What a mail tells of: an invitation or an item."""

    def names(self) -> dict[str, str]:
        """Return what a template's names stand for, safe to show."""


class Facts(msgspec.Struct, frozen=True):
    """What an invitation tells, as users named it."""

    workspace: str
    inviter: str
    role: str
    url: str
    expires: str

    def names(self) -> dict[str, str]:
        """Return what a template's names stand for, safe to show."""
        return {
            "workspace": cleaned(self.workspace),
            "inviter": cleaned(self.inviter or self.workspace),
            "role": cleaned(self.role),
            "url": self.url,
            "expires": self.expires,
        }


class ItemFacts(msgspec.Struct, frozen=True):
    """What a notification tells, as publishers wrote it; URLs are ours."""

    workspace: str
    title: str
    body: str
    count: int
    url: str
    unsubscribe: str | None

    def names(self) -> dict[str, str]:
        """Return what a template's names stand for, safe to show."""
        found = {
            "workspace": cleaned(self.workspace),
            "title": cleaned(self.title, MAX_TITLE),
            "body": cleaned(self.body, MAX_BODY),
            "count": str(self.count),
            "url": self.url,
        }
        return found if self.unsubscribe is None else {**found, "unsubscribe": self.unsubscribe}


class Unfolded(UnstructuredHeader):
    """A header in one line: folded, a URL would become an encoded word that no reader follows."""

    def fold(self, *, policy: EmailPolicy) -> str:
        """Write the header as it is; `write` gives it nothing but a URL of ours."""
        return f"{self.name}: {self}{policy.linesep}"  # type: ignore[attr-defined]


HEADERS = HeaderRegistry()
HEADERS.map_to_type("list-unsubscribe", Unfolded)  # type: ignore[arg-type]


def write(
    letter: Letter, facts: Told, sender: str, recipient: str, unsubscribe: str | None = None
) -> EmailMessage:
    """Write a mail with a text and an HTML part (RFC 2046, section 5.1.4).

    With `unsubscribe`, a URL, mail programs offer to end such mails by one click (RFC 8058).
    """
    plain = facts.names()
    escaped = {name: html.escape(value) for name, value in plain.items()}
    message = EmailMessage(policy=SMTP.clone(header_factory=HEADERS))
    name, address = parseaddr(sender)
    message["From"] = Address(name, addr_spec=address)
    message["To"] = Address(addr_spec=recipient)
    # The header's class decodes what looks like an encoded word (RFC 2047), line feeds included,
    # and would write them as they are.
    subject = letter.subject.substitute(plain).replace("=?", "= ?")
    message["Subject"] = subject[:MAX_SUBJECT]
    # RFC 3834, section 5: no out-of-office answers.
    message["Auto-Submitted"] = "auto-generated"
    if unsubscribe is not None:
        message["List-Unsubscribe"] = f"<{unsubscribe}>"
        message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    message.set_content(letter.text.substitute(plain))
    message.add_alternative(letter.html.substitute(escaped), subtype="html")
    return message


def cleaned(name: str, most: int = MAX_NAME) -> str:
    """Make a text safe to show: one line of `most` characters that no client makes a link of.

    Takes out what is not visible: controls, directions, joiners.
    """
    text = unicodedata.normalize("NFKC", name[:2000])
    text = "".join(c if unicodedata.category(c)[0] not in "CZ" else " " for c in text)
    if LINKED.search(text):
        text = re.sub(r"[.\u3002:/@\\]+", " ", text)
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"
