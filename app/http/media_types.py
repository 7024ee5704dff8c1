"""Which media types an operation takes."""

from collections.abc import Mapping, Sequence

from app.errors import UnsupportedMediaType

JSON = ("application/json",)
MERGE_PATCH = ("application/json", "application/merge-patch+json")


def media_type(headers: Mapping[str, str]) -> str:
    """Return the Content-Type without its parameters, in lower case."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def check(headers: Mapping[str, str], taken: Sequence[str]) -> None:
    """Raise `UnsupportedMediaType` for a body of another type than those that are taken.

    A CloudEvent in binary mode has its attributes in `ce-*` headers, and its body would be misread.
    """
    given = media_type(headers)
    if "ce-specversion" in headers and not given.startswith("application/cloudevents"):
        raise UnsupportedMediaType(
            "CloudEvents in binary mode are not taken; send them in structured mode to"
            " …/events/cloudevents, as application/cloudevents+json."
        )
    if given not in taken:
        raise UnsupportedMediaType(f"Send the body as {' or '.join(taken)}.")
