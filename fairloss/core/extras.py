"""Optional packages, imported where they are needed."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["require"]


def require(module: str, install: str = "fairloss[report]") -> Any:
    """The module, or one message that names what to ``install``.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f"{package} is needed here: pip install '{install}'") from error
