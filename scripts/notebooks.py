"""Run every notebook from top to bottom in a new kernel, offline; `--strip` empties their outputs.

A notebook runs in a copy of the `notebooks` folder, so what it writes is gone afterwards.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
LIMIT_SECONDS = 120
"""What the longest notebook may take on two quiet cores."""

CELL_SECONDS = 600
"""Machines are shared, so only a cell that hangs is ended; the limit above is reported."""


def paths(names: list[str]) -> list[Path]:
    found = sorted(FOLDER.glob("*.ipynb"))
    if unknown := set(names) - {path.stem for path in found}:
        raise SystemExit(f"no such notebook: {', '.join(sorted(unknown))}")
    return [path for path in found if not names or path.stem in names]


def stripped(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
            cell.execution_count = None
        cell.metadata = {}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return notebook


def ran(path: Path, folder: Path, out: Path | None) -> float:
    """Run a notebook's copy in `folder`; return its seconds."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    started = time.perf_counter()
    try:
        client.execute()
    except CellExecutionError as error:
        raise SystemExit(f"{path.name} failed:\n{error}") from None
    seconds = time.perf_counter() - started
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, out / path.name)
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="without .ipynb; all if none")
    parser.add_argument("--strip", action="store_true", help="empty the outputs and stop")
    parser.add_argument("--out", type=Path, help="keep the executed notebooks in this folder")
    args = parser.parse_args()
    if args.strip:
        for path in paths(args.names):
            nbformat.write(stripped(path), path)
        return 0
    # A provider's key that lies about must not be used.
    for name in [name for name in os.environ if name.endswith("_API_KEY")]:
        del os.environ[name]
    slow = []
    for path in paths(args.names):
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "notebooks"
            shutil.copytree(FOLDER, copy)
            (Path(folder) / "demo").symlink_to(ROOT / "demo", target_is_directory=True)
            seconds = ran(path, copy, args.out)
        print(f"{path.name:<40}{seconds:6.1f} s", flush=True)
        if seconds > LIMIT_SECONDS:
            slow.append(path.name)
    if slow:
        print(f"over {LIMIT_SECONDS} s on this machine: {', '.join(slow)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
