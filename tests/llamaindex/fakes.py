"""What tests of LlamaIndex share."""

import pytest


def seven(number: int) -> str:
    """Say a number."""
    return f"number {number}"


# LlamaIndex itself uses what pydantic and its own workflow engine have deprecated.
deprecations = pytest.mark.filterwarnings(
    "ignore::pydantic.warnings.PydanticDeprecationWarning",
    "ignore:is_running called from within a step:DeprecationWarning",
)
