from typing import Literal

import msgspec


class Health(msgspec.Struct, frozen=True):
    """That the process runs."""

    status: Literal["ok"]
    version: str
