from typing import Literal

import msgspec


class Unsubscription(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The form that mail programs send (RFC 8058, section 3.1)."""

    list_unsubscribe: Literal["One-Click"] = msgspec.field(name="List-Unsubscribe")
