"""Which media types an operation takes."""

from collections.abc import Mapping

JSON = ("application/json",)
MERGE_PATCH = ("application/json", "application/merge-patch+json")


def media_type(headers: Mapping[str, str]) -> str:
    """Return the Content-Type without its parameters, in lower case."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()
