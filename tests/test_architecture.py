"""The conventions of docs/decisions.md, held as tests."""

import ast
import dataclasses
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {
    "costwise_core": ROOT / "shared/src/costwise_core",
    "costwise_models": ROOT / "packages/costwise_models/src/costwise_models",
    "langchain_costwise": ROOT / "packages/langchain_costwise/src/langchain_costwise",
    "llamaindex_costwise": ROOT / "packages/llamaindex_costwise/src/llamaindex_costwise",
}
FORBIDDEN = {
    "costwise_core": {"langchain", "langchain_core", "llama_index", "torch", "litellm"},
    "costwise_models": {"costwise_core", "langchain_core", "llama_index", "numpy"},
    "langchain_costwise": {"llama_index", "llamaindex_costwise", "numpy", "langchain_community"},
    "llamaindex_costwise": {"langchain_core", "langchain_costwise", "numpy"},
}
FILES = [(package, path) for package, folder in SOURCES.items() for path in folder.rglob("*.py")]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def modules(package: str) -> list[str]:
    found = pkgutil.walk_packages([str(SOURCES[package])], prefix=f"{package}.")
    return [package, *(m.name for m in found if not m.name.endswith("__main__"))]


@pytest.mark.parametrize(
    ("package", "path"), FILES, ids=lambda value: getattr(value, "name", value)
)
def test_imports_stay_inside_their_layer(package, path):
    tops = {name.split(".")[0] for name in imported(path)}
    assert not tops & FORBIDDEN[package], f"{path.name} may not import {tops & FORBIDDEN[package]}"


@pytest.mark.parametrize(
    ("package", "path"), FILES, ids=lambda value: getattr(value, "name", value)
)
def test_no_pickle_no_eval_no_print(package, path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    banned = {"eval", "exec"} | (set() if path.name == "__main__.py" else {"print"})
    assert not calls & banned
    assert not {"pickle", "shelve", "marshal"} & imported(path)


@pytest.mark.parametrize("package", ["costwise_core", "langchain_costwise", "llamaindex_costwise"])
def test_importing_a_package_loads_nothing_heavy(package):
    heavy = [
        "numpy",
        "langchain_core",
        "llama_index.core",
        "onnxruntime",
        "tiktoken",
        "genai_prices",
    ]
    code = f"import sys, {package}; print([m for m in {heavy!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("package", ["costwise_core", "langchain_costwise", "llamaindex_costwise"])
def test_public_names_exist_and_say_what_they_are(package):
    public = importlib.import_module(package)
    assert public.__all__
    for name in public.__all__:
        value = getattr(public, name)
        if callable(value):
            assert (value.__doc__ or "").strip(), f"{package}.{name} has no docstring"
            assert (
                "Example:" in value.__doc__
                or dataclasses.is_dataclass(value)
                or (isinstance(value, type) and issubclass(value, Exception))
            ), f"{package}.{name} has no example"


@pytest.mark.parametrize("name", modules("costwise_core"))
def test_public_dataclasses_are_frozen_and_keyword_only(name):
    module = importlib.import_module(name)
    for value in vars(module).values():
        if not isinstance(value, type):
            continue
        if dataclasses.is_dataclass(value) and value.__module__ == name:
            if value.__name__.startswith("_") or value.__name__ == "Effect":
                continue  # Effect is made on every step of a flow, by one function
            assert value.__dataclass_params__.frozen, f"{name}.{value.__name__} is not frozen"
            assert all(f.kw_only for f in dataclasses.fields(value) if f.init), value.__name__
