"""Structs for tests: valid, and the same in each run; a test names only the fields it is about."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, TypeVar, get_args

import msgspec
from polyfactory.factories.msgspec_factory import MsgspecFactory

from app.settings import Settings

StructT = TypeVar("StructT", bound=msgspec.Struct)
ATTEMPTS = 200
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class StructFactory(MsgspecFactory[msgspec.Struct]):
    """Makes what JSON can carry: times with a zone, and documents."""

    __is_base_factory__ = True

    @classmethod
    def get_field_value(cls, field_meta: Any, *args: Any, **others: Any) -> Any:
        """Make a time in the same way where its type has limits, which polyfactory would drop."""
        if datetime in (field_meta.annotation, *get_args(field_meta.annotation)[:1]):
            return cls.get_provider_map()[datetime]()
        return super().get_field_value(field_meta, *args, **others)

    @classmethod
    def get_provider_map(cls) -> dict[Any, Callable[[], Any]]:
        """Add the types whose random values are no JSON."""
        return {
            **super().get_provider_map(),
            datetime: lambda: NOON + timedelta(seconds=cls.__random__.randint(-(10**8), 10**8)),
            msgspec.Raw: lambda: msgspec.Raw(b'{"n": %d}' % cls.__random__.randint(0, 99)),
        }


@cache
def factory_of(struct: type[StructT]) -> type[MsgspecFactory[StructT]]:
    """Make a struct's factory; its values begin anew in each process."""
    factory: Any = StructFactory.create_factory(struct)
    factory.seed_random(struct.__name__)
    return factory  # type: ignore[no-any-return]


def make(struct: type[StructT], **fields: Any) -> StructT:
    """Make a struct; what is not named is random within its limits."""
    for _ in range(ATTEMPTS):
        made: StructT = factory_of(struct).build(**fields)
        try:
            msgspec.json.decode(msgspec.json.encode(made), type=struct)
            return made
        except msgspec.ValidationError:
            continue  # polyfactory misreads some patterns
    raise AssertionError(f"No {struct.__name__} of {ATTEMPTS} is valid.")


def make_settings(**fields: Any) -> Settings:
    """Make settings that name no database; what is not named is the default."""
    return Settings(database_url="", worker_database_url="", **fields)
