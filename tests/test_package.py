"""What a user meets first: a light import, a small surface, an order of floors."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import aista
from tools import house

ROOT = Path(__file__).parents[1]


def _python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_import_is_light() -> None:
    """Of what is installed beside Python, it imports nothing."""
    code = "import sys; old = set(sys.modules); import aista; print(*{m.partition('.')[0] for m in " + (
        "set(sys.modules) - old} - sys.stdlib_module_names)"
    )
    assert _python(code) == "aista"


def test_public_names_are_few_and_documented() -> None:
    assert len(aista.__all__) <= 15
    for name in aista.__all__:
        if name != "__version__":
            assert getattr(aista, name).__doc__, name


def test_floors_are_kept() -> None:
    result = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_no_function_has_more_than_seven_parameters() -> None:
    assert house.sizes(house.working_tree())["more than 7 parameters"] == 0


def test_help_lists_every_verb() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "aista", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for verb in ("demo", "translate", "pretrain", "select", "joint", "evaluate"):
        assert verb in shown


def test_nobody_is_sent_to_an_index_for_this_package() -> None:
    """It is installed from a copy of the repository; on an index anybody may own its name."""
    root = Path(__file__).parents[1]
    pages = [root / "README.md", *root.glob("docs/**/*.md"), *root.glob("src/**/*.py")]
    sent = re.compile(r"aista\[[a-z]|pip install ['\"]?aista\b")
    assert not [str(page) for page in pages if sent.search(page.read_text(encoding="utf-8"))]
