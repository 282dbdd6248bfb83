"""Who wants the loss or the ranks for their own model gets numpy, torch, numba, and nothing of ours above."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
ROOMS = ("ot", "retrieval", "alignment")
LIBRARIES = {"numpy", "torch", "numba"}
# POT solves what the own solver gives up on; it is imported then, and only then.
FALLBACK = {("ot/exact.py", "ot")}


def imported(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_little(room: str) -> None:
    files = sorted((SOURCE / "aista" / room).glob("*.py"))
    assert len(files) > 3
    for path in files:
        for name in imported(path):
            top = name.split(".")[0]
            if top == "aista":
                assert name.split(".")[1] in {*ROOMS, "errors", "plugins"}, (path, name)
            else:
                known = top in LIBRARIES or top in sys.stdlib_module_names
                assert known or (f"{room}/{path.name}", top) in FALLBACK, (path, name)


@pytest.mark.slow
def test_using_them_loads_little() -> None:
    code = """
import sys, torch
from aista.alignment import PairedStates, alignment, joint_loss
from aista.ot import WassersteinLoss
from aista.retrieval import exact_ranks, mrr, select_layers
side, real = torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)
states = PairedStates({1: side}, real, {1: side}, real, torch.zeros(2, 3, dtype=torch.int64))
loss = joint_loss(torch.tensor(1.0), alignment("wasserstein", (1,))(states), 0.99)
chosen = select_layers([exact_ranks(list(side), list(side)).mrr], 0.05)
heavy = ("transformers", "peft", "pydantic", "accelerate", "ot", "sklearn", "matplotlib", "fastapi")
print([name for name in heavy if name in sys.modules], float(loss) < 1.01, chosen)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[] True [0]"
