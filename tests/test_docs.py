"""Every example in a docstring and every Python block in the docs runs."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

from tests.test_architecture import ROOT, modules

MODULES = [
    name
    for package in ("costwise_core", "langchain_costwise", "llamaindex_costwise", "costwise_models")
    for name in modules(package)
]
PAGES = [
    ROOT / "README.md",
    ROOT / "shared/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *ROOT.glob("packages/*/README.md"),
]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks(page: Path, tmp_path, monkeypatch):
    """The blocks of a page run in order, sharing names, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": page.stem}
    for number, block in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")), 1):
        exec(compile(block, f"{page.name} block {number}", "exec"), names)
    assert names
