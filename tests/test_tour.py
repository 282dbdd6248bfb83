"""docs/tour.md names every file on the two walks, and no file that is gone."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def house() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tools_house", ROOT / "tools" / "house.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["tools_house"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_named_file_exists() -> None:
    named = re.findall(r"\(\.\./(src/aista/[^)]+)\)", PAGE)
    assert len(named) > 20
    assert [path for path in named if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize("name", ["audio_to_translation", "row_to_loss"])
def test_the_page_names_the_files_of_a_walk(house: ModuleType, tmp_path: Path, name: str) -> None:
    found = getattr(house, name)(tmp_path)
    assert len(found) > 10
    assert [path for path in found if f"../src/aista/{path})" not in PAGE] == []


def test_sizes_count_what_is_there(house: ModuleType) -> None:
    source = '"""A module."""\n\n\ndef f(a, b, c, d, e, g, h, i):\n    """Say."""\n    return a\n\n\nf(1)\n'
    found = house.sizes({"room/one.py": source, "top.py": "import os\n"})
    assert found["lines"] == 10 and found["files"] == 2 and found["functions"] == 1
    assert found["more than 7 parameters"] == 1 and found["called once, at most 8 lines"] == 1
    assert found["rooms"] == {"room": (9, 1), "(top)": (1, 1)}
