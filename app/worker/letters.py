"""What a mail says: templates in several languages, filled with names that people chose.

Workspaces, people and roles are named by users, and a mail carries the operator's good name. So
names are cut and cleaned here, and nothing in them becomes markup, a link or a header.
"""

import html
import re
import unicodedata
from collections.abc import Mapping
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import parseaddr
from pathlib import Path
from string import Template
from typing import Self

import msgspec

from app.settings import SettingsError

FOLDER = Path(__file__).parent / "templates"
FALLBACK = "en"
NAMES = {"workspace", "inviter", "role", "url", "expires"}
"""What a template may name as `$name`."""
SUBJECT = "Subject: "
MAX_NAME, MAX_SUBJECT = 60, 120
FILE = re.compile(r"invitation\.([A-Za-z0-9-]+)\.(txt|html)")
# What mail clients make a link of without being asked: a scheme, an address, a dotted name.
LINKED = re.compile(r"://|@|\w[.\u3002]\w|(?i:\bwww\b|\b(?:mailto|tel|javascript|data):)")


class Letter(msgspec.Struct, frozen=True):
    """The templates of one language."""

    subject: Template
    text: Template
    html: Template


class Letters(msgspec.Struct, frozen=True):
    """The templates of all languages, by language tag in lower case."""

    by_locale: Mapping[str, Letter]

    @classmethod
    def read(cls, overrides: str | None = None) -> Self:
        """Read Annex's own templates and those of a folder, which take their place file by file.

        Raises `SettingsError` for one that cannot be filled, or that lacks its other half.
        """
        files: dict[tuple[str, str], str] = {}
        for folder in (FOLDER, *([Path(overrides)] if overrides else [])):
            for path in sorted(folder.iterdir()):
                if match := FILE.fullmatch(path.name):
                    files[match[1].lower(), match[2]] = path.read_text("utf-8")
        found = {}
        for locale in {locale for locale, _ in files}:
            name = f"ANNEX_MAIL_TEMPLATES: invitation.{locale}"
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
                if not template.is_valid() or set(template.get_identifiers()) - NAMES:
                    raise SettingsError(
                        f"{name} names something else than {', '.join(sorted(NAMES))}; "
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


class Facts(msgspec.Struct, frozen=True):
    """What a mail tells, as users named it."""

    workspace: str
    inviter: str
    role: str
    url: str
    expires: str


def write(letter: Letter, facts: Facts, sender: str, recipient: str) -> EmailMessage:
    """Write a mail with a text and an HTML part (RFC 2046, section 5.1.4)."""
    plain = {
        "workspace": cleaned(facts.workspace),
        "inviter": cleaned(facts.inviter or facts.workspace),
        "role": cleaned(facts.role),
        "url": facts.url,
        "expires": facts.expires,
    }
    escaped = {name: html.escape(value) for name, value in plain.items()}
    message = EmailMessage(policy=SMTP)
    name, address = parseaddr(sender)
    message["From"] = Address(name, addr_spec=address)
    message["To"] = Address(addr_spec=recipient)
    # The header's class decodes what looks like an encoded word (RFC 2047), line feeds included,
    # and would write them as they are.
    subject = letter.subject.substitute(plain).replace("=?", "= ?")
    message["Subject"] = subject[:MAX_SUBJECT]
    # RFC 3834, section 5: no out-of-office answers.
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(letter.text.substitute(plain))
    message.add_alternative(letter.html.substitute(escaped), subtype="html")
    return message


def cleaned(name: str) -> str:
    """Make a name safe to show: one line of at most 60 characters that no client makes a link of.

    Takes out what is not visible: controls, directions, joiners.
    """
    text = unicodedata.normalize("NFKC", name[:1000])
    text = "".join(c if unicodedata.category(c)[0] not in "CZ" else " " for c in text)
    if LINKED.search(text):
        text = re.sub(r"[.\u3002:/@\\]+", " ", text)
    text = " ".join(text.split())
    return text if len(text) <= MAX_NAME else f"{text[: MAX_NAME - 1]}…"
