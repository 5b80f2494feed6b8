"""Names that are imported when they are first used, so that importing a package costs little."""

import importlib
from collections.abc import Callable, Mapping

__all__ = ["exports"]


def exports(package: str, modules: Mapping[str, str]) -> Callable[[str], object]:
    """Return a module-level `__getattr__` that imports each name from its module on first use.

    Args:
        package: The package's `__name__`.
        modules: The full module name for each public name.
    """

    def __getattr__(name: str) -> object:  # noqa: N807 - it becomes the package's own
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(modules[name]), name)
        vars(importlib.import_module(package))[name] = value
        return value

    return __getattr__
