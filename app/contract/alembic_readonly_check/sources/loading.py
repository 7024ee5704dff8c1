"""Import what the configuration names as `module:attribute`."""

import importlib
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from alembic_readonly_check.findings import CannotCheck


def load(target: str, root: Path | None = None) -> Any:
    """Import `package.module:attribute.attribute` with the root, if given, first on the path.

    Raises `CannotCheck` with the reason if the module cannot be imported or lacks the attribute.
    """
    module_name, _, attributes = target.partition(":")
    if root is not None and str(root) not in sys.path:
        sys.path.insert(0, str(root))
    try:
        # What a project prints while it is imported is no part of a report.
        with redirect_stdout(sys.stderr):
            value: Any = importlib.import_module(module_name)
            for attribute in attributes.split(".") if attributes else ():
                if not hasattr(value, attribute):
                    raise CannotCheck(f"{module_name} has no {attributes}.")
                value = getattr(value, attribute)
    except (CannotCheck, KeyboardInterrupt):
        raise
    except SystemExit as error:
        raise CannotCheck(f"{module_name} ends the process when it is imported.") from error
    except BaseException as error:
        raise CannotCheck(
            f"{module_name} cannot be imported: {type(error).__name__}: {error}."
        ) from error
    return value
