"""The notebooks as they lie in the repository; `make notebooks` runs them."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MACHINE = re.compile(r"/(?:home|root|tmp|Users|work|mnt)/|[A-Z]:\\\\")
PICTURE = re.compile(r"plt\.show\(\)|\bdisplay\(")
"""A picture, or an object that shows itself; the last line of a cell may be one, too."""

MOST_BYTES = 1_500_000


def read(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def code(path: Path) -> list[str]:
    return [cell.source for cell in read(path).cells if cell.cell_type == "code"]


def test_there_are_seven() -> None:
    assert [path.name[0] for path in NOTEBOOKS] == list("1234567")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestEach:
    def test_is_stripped(self, path: Path) -> None:
        cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
        assert cells
        assert not any(cell.outputs for cell in cells)
        assert all(cell.execution_count is None for cell in cells)

    def test_names_no_place_on_somebodys_machine(self, path: Path) -> None:
        assert MACHINE.search(path.read_text("utf-8")) is None

    def test_begins_with_a_title_and_explains_itself(self, path: Path) -> None:
        cells = read(path).cells
        assert cells[0].cell_type == "markdown"
        assert cells[0].source.startswith("# ")
        assert sum(cell.cell_type == "markdown" for cell in cells) >= 5

    def test_its_code_parses(self, path: Path) -> None:
        trees = [ast.parse(source) for source in code(path)]
        assert all(tree.body for tree in trees)

    def test_its_cells_are_short(self, path: Path) -> None:
        assert max(len(source.splitlines()) for source in code(path)) <= 40

    def test_shows_a_picture(self, path: Path) -> None:
        assert any(PICTURE.search(source) for source in code(path))

    def test_is_listed(self, path: Path) -> None:
        assert f"({path.name})" in (FOLDER / "README.md").read_text("utf-8")


def test_the_data_are_small_and_their_licences_named() -> None:
    files = [path for path in (FOLDER / "data").iterdir() if path.name != "LICENSE.md"]
    said = (FOLDER / "data" / "LICENSE.md").read_text("utf-8")
    assert files
    assert all(f"`{path.name}`" in said for path in files)
    assert sum(path.stat().st_size for path in files) < MOST_BYTES


def test_every_file_that_a_notebook_reads_is_there() -> None:
    sources = "\n".join(source for path in NOTEBOOKS for source in code(path))
    named = set(re.findall(r'"data/([^"]+)"', sources))
    assert named == {path.name for path in (FOLDER / "data").iterdir()} - {"LICENSE.md"}
