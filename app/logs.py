"""Logging: a line of JSON an event in production, a readable one in development.

The one place where secrets are taken out. Of an exception only types and places are written, and
of a right that is missing only what it is on. In texts, everything that looks like a credential or
an email address is replaced.
"""

import logging
import re
import sys
import traceback
from collections.abc import Mapping
from typing import Any

import asyncpg
import structlog

from app.errors import causes
from app.settings import Settings, environment, misspelt

HIDDEN = "[hidden]"
TOKENS = (
    r"annex_(?:sk|op|it|ut)_[0-9A-Za-z_-]+"
    r"|sb_(?:publishable|secret)_[0-9A-Za-z_-]+"
    # A JWT, such as an access token: its first part always begins like this.
    r"|eyJ[0-9A-Za-z_-]{5,}(?:\.[0-9A-Za-z_-]*){0,4}"
    r"|(?i:bearer)\s+[^\s\"',]+"
    # The last part of a name, as of the cookie annex_ticket: a ticket looks like nothing.
    r"|(?i:(?<![0-9A-Za-z])(?:ticket|cursor|last_event_id|password|secret|token|apikey)=)[^\s&\"']+"
)
ADDRESSES = (
    # The user and password of a URL.
    r"|(?<=://)[^\s/@\"']{1,500}@"
    # \w is any script's: RFC 6531 allows an address in each.
    r"|[\w.%+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}"
)
DENIED = re.compile(r"permission denied for (\w+ \w+)")
LACKING = "a role lacks a right that the migrations give; run `annex doctor`"
SECRETS = re.compile(TOKENS)
SECRETS_WITH_AT = re.compile(TOKENS + ADDRESSES)
MAX_TEXT = 2000
MAX_FRAMES = 20
MAX_CAUSES = 5
DETAILS = ("sqlstate", "constraint_name", "errno")
"""Of an exception: what says more than its type, and nothing of what it was given."""


def redact(text: str) -> str:
    """Replace what looks like a credential or an email address."""
    text = text[:MAX_TEXT]
    # Most texts have no @, and what looks for one is tried at each of their characters.
    return (SECRETS_WITH_AT if "@" in text else SECRETS).sub(HIDDEN, text)


def redacted(value: Any) -> Any:
    """Redact a value of a log event, at any depth."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {redact(str(key)): redacted(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(each) for each in value]
    return redact(str(value))


def show(error: BaseException, depth: int = 0) -> list[dict[str, Any]]:
    """Say what an exception is and where it was raised, then its causes.

    Neither its message nor variables: drivers and parsers repeat what they were given.
    """
    frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
    shown: dict[str, Any] = {
        "type": f"{type(error).__module__}.{type(error).__qualname__}",
        "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
    for name in DETAILS:
        if isinstance(detail := getattr(error, name, None), str | int):
            shown[name] = detail
    inner = list(error.exceptions) if isinstance(error, BaseExceptionGroup) else []
    if (cause := error.__cause__ or error.__context__) is not None:
        inner.append(cause)
    found = [shown]
    for each in inner[:MAX_CAUSES] if depth < MAX_CAUSES else ():
        found += show(each, depth + 1)
    return found


def reason_of(error: BaseException) -> str:
    """Name an error without its message, which may hold what a user wrote."""
    parts = [type(error).__name__]
    parts += [str(v) for n in DETAILS if isinstance(v := getattr(error, n, None), str | int)]
    return " ".join(parts)


def show_exception(_: Any, __: str, event: Any) -> Any:
    """Replace `exc_info` by what may be shown of it."""
    given = event.pop("exc_info", None)
    if given is True:
        given = sys.exc_info()[1]
    elif isinstance(given, tuple):
        given = given[1]
    if not isinstance(given, BaseException):
        return event
    if denied := denied_in(given):
        event["event"] = f"{event['event']}: {LACKING}"
        event["denied"] = denied
    else:
        event["exception"] = show(given)
    return event


def denied_in(error: BaseException) -> str | None:
    """Return what a login role lacks a right on, such as `table members`; None for other errors.

    Row level security refuses with the same code, and in other words: only a traceback tells where.
    """
    refusals = (c for c in causes(error) if isinstance(c, asyncpg.InsufficientPrivilegeError))
    found = (DENIED.fullmatch(str(refusal).partition("\n")[0]) for refusal in refusals)
    return next((match[1] for match in found if match), None)


def redact_event(_: Any, __: str, event: Any) -> Any:
    """Redact every text of a log event; its own names are ours."""
    return {name: redacted(value) for name, value in event.items()}


def write_lines(_: Any, __: str, event: Any) -> Any:
    """Write what `show_exception` found as lines; the console renderer takes only text."""
    if shown := event.get("exception"):
        lines = []
        for error in shown:
            details = [f" {k}={v}" for k, v in error.items() if k not in ("type", "at")]
            lines.append(error["type"] + "".join(details))
            lines += [f"  {place}" for place in error["at"]]
        event["exception"] = "\n".join(lines)
    return event


class Handler(logging.Handler):
    """Writes the libraries' log records as ours; their arguments stay out."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record: its pattern, not what was put into it."""
        error = record.exc_info[1] if record.exc_info else None
        message = str(record.msg).strip().partition("\n")[0]
        log = structlog.get_logger()
        log.log(record.levelno, message, logger=record.name, exc_info=error)


def warn_of_misspelt() -> None:
    """Say which settings are misspelt, which without that would be silently ignored.

    Before they are read, because the right name may be what is missing.
    """
    for sentence in misspelt(environment()):
        sys.stderr.write(f"annex: warning: {sentence}\n")


def configure_logging(settings: Settings) -> None:
    """Set structlog and the libraries' loggers up; everything goes to standard error."""
    renderers: list[structlog.typing.Processor] = [structlog.processors.JSONRenderer()]
    if settings.is_development:
        console = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        renderers = [write_lines, console]
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            show_exception,
            redact_event,
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # Looked up for each line: standard error may be another file by then.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    if not any(isinstance(handler, Handler) for handler in root.handlers):
        root.addHandler(Handler())
