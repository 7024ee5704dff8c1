"""Find the files that are no code: contract, documents, migrations, demo data.

A checkout has them where people edit them, in `docs/` and `supabase/`. The wheel carries copies of
them below `app/data/` (`force-include` in pyproject.toml), under the same names.
"""

from importlib.resources import files
from pathlib import Path

_PACKAGE = Path(str(files("app")))
_COPIES = _PACKAGE / "data"


def resource(name: str) -> Path:
    """Return the path of a file or folder, such as `docs/openapi.yaml`."""
    return (_COPIES if _COPIES.is_dir() else _PACKAGE.parent) / name
