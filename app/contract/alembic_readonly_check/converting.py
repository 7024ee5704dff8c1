"""Turn the tables of a TOML file into dataclasses, and name the key that is wrong."""

from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_KINDS = {
    "str": "a text in quotes",
    "float": "a number",
    "bool": "true or false",
    "date": "a date without quotes",
}


class Wrong(ValueError):
    """Say which key is wrong and why, in one sentence."""


def convert(value: Any, kind: Any, at: str = "$") -> Any:
    """Give a value its declared type, keys in kebab-case; raises `Wrong`."""
    if is_dataclass(kind) and isinstance(kind, type):
        return _object(value, kind, at)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return convert(value, arguments[0], at)  # TOML has no null: what is stated is the type.
    if origin is tuple:
        if not isinstance(value, list):
            raise Wrong(f'{at} is not a list, such as ["public"]')
        return tuple(convert(one, arguments[0], f"{at}[{n}]") for n, one in enumerate(value))
    if origin is Literal:
        if value not in arguments:
            raise Wrong(f"{at} is {value!r}; write one of {', '.join(map(repr, arguments))}")
        return value
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise Wrong(f"{at} is {value!r}; write {_KINDS[kind.__name__]}")
    return value


def _object(value: Any, kind: type[Any], at: str) -> Any:
    if not isinstance(value, dict):
        raise Wrong(f"{at} is not a table")
    hints = get_type_hints(kind)
    own = {
        field.name.replace("_", "-"): field
        for field in fields(kind)
        if field.metadata != {"own": 1}
    }
    if unknown := value.keys() - own.keys():
        raise Wrong(f"{at}.{min(unknown)} is no key; known are {', '.join(own)}")
    given = {
        own[key].name: convert(one, hints[own[key].name], f"{at}.{key}")
        for key, one in value.items()
    }
    for key, field in own.items():
        if key not in value and field.default is MISSING and field.default_factory is MISSING:
            raise Wrong(f"{at} has no `{key}`")
    return kind(**given)
