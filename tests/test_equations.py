"""docs/equations.md names functions that say which equation they apply, and that give what it says."""

from __future__ import annotations

import ast
import importlib
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aista.speech_llm import Batcher
from tests import tiny

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


# ---- worked by hand ----


def cloud(*points: float) -> torch.Tensor:
    """Tokens of one dimension: (1, n, 1)."""
    return torch.tensor(points, dtype=torch.float64)[None, :, None]


def equation_1(wasserstein_loss: Any) -> None:
    """Three speech tokens 0, 1, 2 of mass 1/3; two text tokens 0, 2 of mass 1/2.

    0 -> 0 and 2 -> 2 cost nothing; the token at 1 gives 1/6 to either side at cost 1: W = 1/3.
    From 0, 3 to 1, 2: W = (1 + 1) / 2 = 1, and dW/ds = 2 (s - t) / 2 = (-1, +1).
    """
    loss = wasserstein_loss()
    real = torch.ones(1, 3, dtype=torch.bool)
    assert loss(cloud(0, 1, 2), real, cloud(0, 2), real[:, :2]).item() == pytest.approx(1 / 3)
    speech = cloud(0, 3).requires_grad_()
    value = loss(speech, real[:, :2], cloud(1, 2), real[:, :2])
    value.sum().backward()
    assert value.item() == pytest.approx(1) and speech.grad.flatten().tolist() == pytest.approx([-1, 1])


def equation_2(forward: Callable, folder: Path) -> None:
    """Every logit 0: each of the M target tokens has probability 1 / V, so the loss is M log V."""
    from aista.training.stages import fresh_model

    model, processor = fresh_model(tiny.pretrain_settings(folder).model, 0)
    head = model.get_output_embeddings()
    with torch.no_grad():
        head.weight.zero_()
    batch = Batcher(processor, model.config).training([torch.zeros(8_000).numpy()], ["Translate."], ["Ja."])
    given = {**batch.inputs(), "labels": batch.labels}
    assert int((batch.labels != -100).sum()) == 4  # three bytes and the end
    assert forward(model, **given, num_items_in_batch=1).loss.item() == pytest.approx(4 * math.log(262))
    assert forward(model, **given).loss.item() == pytest.approx(math.log(262))


def equation_3(exact_ranks: Callable) -> None:
    """Two clips at 0, texts at 1 and 2: D = [[1, 4], [1, 4]]. The second clip has its own text second."""
    ranking = exact_ranks([cloud(0)[0]] * 2, [cloud(1)[0], cloud(2)[0]])
    assert ranking.gold.tolist() == [1, 4] and ranking.ranks.tolist() == [1, 2]


def equation_4(mrr: Callable) -> None:
    """Ranks 1, 2, 4: (1 + 1/2 + 1/4) / 3 = 7/12."""
    assert mrr([1, 2, 4]) == pytest.approx(7 / 12)


def equation_5(select_layers: Callable) -> None:
    """Above the threshold, not at it."""
    assert select_layers([0.6, 0.05, 0.051, 0.01], 0.05) == [0, 2]
    assert select_layers([], 0.05) == []


def equation_6(joint_loss: Callable) -> None:
    """0.9 * 2 + 0.1 / 2 * (3 + 5) = 2.2, with gradients 0.9, 0.05, 0.05; alpha 1 leaves the cross-entropy."""
    assert joint_loss(2.0, [3.0, 5.0], 0.9) == pytest.approx(2.2)
    assert joint_loss(2.0, {0: 3.0, 7: 5.0}, 1.0) == 2.0
    assert joint_loss(2.0, [], 0.9) == 2.0
    ce, one, two = (torch.tensor(value, requires_grad=True) for value in (2.0, 3.0, 5.0))
    joint_loss(ce, [one, two], 0.9).backward()
    assert [float(x.grad) for x in (ce, one, two)] == pytest.approx([0.9, 0.05, 0.05])


@pytest.mark.parametrize(("number", "path", "name"), ROWS)
def test_function_gives_what_can_be_worked_out_by_hand(
    number: str, path: str, name: str, tmp_path: Path
) -> None:
    found: Any = importlib.import_module(path.removeprefix("src/").removesuffix(".py").replace("/", "."))
    for part in name.split("."):
        found = getattr(found, part)
    check = globals()[f"equation_{number}"]
    check(found, *([tmp_path] if number == "2" else []))
