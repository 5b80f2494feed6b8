"""A package whose names are imported when they are first used, so that importing it costs little.

The package's table of contents is its `__init__.pyi`, which type checkers and editors read as
usual; `attach` reads the same file, so there is one list and not two.
"""

import ast
import importlib
from collections.abc import Callable
from pathlib import Path

__all__ = ["attach"]


def attach(package: str, file: str) -> tuple[Callable[[str], object], list[str]]:
    """Return `__getattr__` and `__all__` for a package that has an `__init__.pyi`.

    Args:
        package: The package's `__name__`.
        file: The package's `__file__`.

    Example:
        >>> import costwise_core
        >>> attach("costwise_core", costwise_core.__file__)[0]("Scope").__name__
        'Scope'
    """
    stub = ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8"))
    modules = {
        alias.name: node.module
        for node in stub.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }

    def __getattr__(name: str) -> object:  # noqa: N807 - it becomes the package's own
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(modules[name]), name)
        vars(importlib.import_module(package))[name] = value
        return value

    return __getattr__, sorted(modules)
