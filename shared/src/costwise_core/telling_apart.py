"""What tells one part from another, where answers are kept apart by how they were made."""

from dataclasses import fields, is_dataclass

__all__ = ["described"]


def described(part: object) -> str:
    """Return what tells a part from others, the same in every process where that is known.

    Example:
        >>> from costwise_core import RerankTrim
        >>> described(RerankTrim(top_k=2)) == described(RerankTrim(top_k=3))
        False
        >>> described(object())
        'builtins.object'
    """
    if is_dataclass(part) and not isinstance(part, type):
        told = [f"{one.name}={described(getattr(part, one.name))}" for one in fields(part)]
        return f"{type(part).__qualname__}({', '.join(told)})"
    said = repr(part)
    if " at 0x" not in said:
        return said
    within = getattr(part, "compressor", None)
    name = f"{type(part).__module__}.{type(part).__qualname__}"
    return name if within is None else f"{name}({described(within)})"
