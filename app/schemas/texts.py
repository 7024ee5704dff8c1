"""Texts that several resources have."""

from typing import Annotated

from msgspec import Meta

# \Z and not $, which in Python lets a line feed follow.
NO_NUL = r"^[^\x00]+\Z"
"""Without U+0000, which Postgres cannot store, and not empty."""
NO_NUL_OR_EMPTY = r"^[^\x00]*\Z"
ROLE_KEY = r"^[a-z][a-z0-9_-]{0,62}\Z"
RoleKey = Annotated[str, Meta(max_length=63, pattern=ROLE_KEY)]
