"""docs/equations.md names functions that exist and that say which equation they apply."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = re.findall(r"\| Eq\. (\d) \|.*\| `([^:`]+):([^`]+)` \|", (ROOT / "docs/equations.md").read_text())


def test_every_equation_of_the_paper_has_a_row() -> None:
    assert [int(number) for number, *_ in ROWS] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("number", "path", "name"), ROWS)
def test_function_exists_and_names_its_equation(number: str, path: str, name: str) -> None:
    scope: ast.AST = ast.parse((ROOT / path).read_text())
    for part in name.split("."):
        scope = next(
            node for node in ast.walk(scope)
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == part
        )  # fmt: skip
    docstring = ast.get_docstring(scope) or ""  # type: ignore[arg-type]
    numbers = {
        n
        for group in re.findall(r"(?:Eq\.|Equations?:?) ?([\d, -]+)", docstring)
        for n in re.findall(r"\d", group)
    }
    assert number in numbers, f"{path}:{name} does not say that it is Eq. {number}"
