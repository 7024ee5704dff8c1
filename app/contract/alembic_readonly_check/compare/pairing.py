"""Pair the facts of two sides: by name, and those without one by what they say."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

T = TypeVar("T")


def pairs(mine: dict[Any, T], theirs: dict[Any, T]) -> Iterator[tuple[Any, T | None, T | None]]:
    for name in sorted({*mine, *theirs}):
        yield name, mine.get(name), theirs.get(name)


def by_name(items: Iterable[T]) -> dict[str, T]:
    return {item.name: item for item in items}  # type: ignore[attr-defined]


def _parted(items: Iterable[T]) -> tuple[dict[str, T], list[T]]:
    """Tell rules with a name, by it, from those without."""
    named: dict[str, T] = {}
    nameless: list[T] = []
    for item in items:
        name = item.name  # type: ignore[attr-defined]
        if name is None:
            nameless.append(item)
        else:
            named[name] = item
    return named, nameless


def matched(
    mine: Iterable[T], theirs: Iterable[T], shape: Callable[[T], Any]
) -> Iterator[tuple[str, T | None, T | None]]:
    """Pair rules by name, and those that one side leaves nameless by what they say."""
    left, nameless = _parted(mine)
    right, rest = _parted(theirs)
    for item in nameless:
        twin = next(
            (
                o
                for o in [*right.values(), *rest]
                if shape(o) == shape(item) and getattr(o, "name", None) not in left
            ),
            None,
        )
        if twin is None:
            yield str(shape(item)), item, None
        elif twin in rest:
            rest.remove(twin)
            yield str(shape(item)), replace(twin, location=item.location), twin  # type: ignore[type-var, attr-defined]
        else:
            name = str(twin.name)  # type: ignore[attr-defined]
            del right[name]
            yield name, item, twin
    for item in rest:
        twin = next(
            (o for n, o in left.items() if n not in right and shape(o) == shape(item)), None
        )
        if twin is None:
            yield str(shape(item)), None, item
        else:
            name = str(twin.name)  # type: ignore[attr-defined]
            del left[name]
            yield name, twin, item
    yield from pairs(left, right)
