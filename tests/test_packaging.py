"""The wheels: built, complete, and importable on their own without any extra."""

import re
import subprocess
import sys
import tomllib
import venv
import zipfile

import pytest

from tests.test_architecture import ROOT, SOURCES, modules

FOLDERS = {
    "costwise_core": ROOT / "shared",
    "costwise_models": ROOT / "packages/costwise_models",
    "langchain_costwise": ROOT / "packages/langchain_costwise",
    "llamaindex_costwise": ROOT / "packages/llamaindex_costwise",
}


def pyproject(package: str) -> dict:
    return tomllib.loads((FOLDERS[package] / "pyproject.toml").read_text(encoding="utf-8"))


def test_one_version_for_all():
    from costwise_core import __version__

    major, minor, _ = __version__.split(".")
    for package in FOLDERS:
        project = pyproject(package)
        assert project["tool"]["hatch"]["version"]["path"].endswith("costwise_core/_version.py")
        text = str(project["project"].get("dependencies")) + str(
            project["project"].get("optional-dependencies")
        )
        for bound in re.findall(r"costwise-(?:core|models)>=([\d.]+),<([\d.]+)", text):
            assert bound == (f"{major}.{minor}", f"{major}.{int(minor) + 1}")


def test_adapters_forward_every_extra_of_the_core():
    core = set(pyproject("costwise_core")["project"]["optional-dependencies"])
    for adapter in ("langchain_costwise", "llamaindex_costwise"):
        assert core <= set(pyproject(adapter)["project"]["optional-dependencies"])


def test_constraints_are_bare_pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert len(pins) > 50
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", pin) for pin in pins)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    for folder in FOLDERS.values():
        subprocess.run(
            [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(folder)],
            check=True,
            capture_output=True,
        )
    return out


@pytest.mark.release
@pytest.mark.parametrize("package", list(FOLDERS))
def test_wheel_and_sdist_are_complete(wheels, package):
    (wheel,) = wheels.glob(f"{package}-*.whl")
    assert list(wheels.glob(f"{package}-*.tar.gz"))
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in SOURCES[package].rglob("*"):
        tools = any(part.startswith(".") or part == "__pycache__" for part in path.parts[-3:])
        if path.is_file() and not tools:
            assert f"{package}/{path.relative_to(SOURCES[package]).as_posix()}" in names
    assert f"{package}/py.typed" in names


@pytest.mark.release
@pytest.mark.parametrize("package", list(FOLDERS))
def test_bare_wheel_imports_without_any_extra(wheels, package, tmp_path):
    venv.create(tmp_path, with_pip=True)
    python = tmp_path / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    needed = [package] if package == "costwise_models" else sorted({"costwise_core", package})
    files = [str(next(wheels.glob(f"{name}-*.whl"))) for name in needed]
    constraints = str(ROOT / "constraints.txt")
    subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "-c", constraints, *files], check=True
    )
    # The contract suites are pytest classes; whoever runs them has pytest.
    names = [name for name in modules(package) if ".testing." not in name]
    # A module for an extra says at its door which one is missing; all others import.
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except ImportError as error:\n"
        "        if type(error).__name__ != 'MissingExtraError': raise\n"
        "        print(name, error)\n"
    )
    done = subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    missing = [line.split()[0] for line in done.stdout.splitlines()]
    agents = [
        f"langchain_costwise.{name}"
        for name in (
            "_stack_agent",
            "budget_middleware",
            "memory_middleware",
            "middleware",
            "router_middleware",
            "tool_results",
        )
    ]
    assert missing == (agents if package.startswith("langchain") else [])
