"""Alpha annealed and alpha measured: what they promise, and that a stopped run goes on the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from aista.config import AlignmentSettings
from aista.errors import ConfigError
from aista.training.balance import EVERY, LEAST, Annealed, Balance, GradientRatio, balance
from aista.training.joint import joint
from aista.training.pretrain import pretrain
from aista.training.run import Interrupted
from tests import tiny
from tests.training.interrupting import interrupted_after


def test_settings_choose_the_balance() -> None:
    assert type(balance(AlignmentSettings(), 10)) is Balance
    assert isinstance(balance(AlignmentSettings(alpha_end=1.0), 10), Annealed)
    assert isinstance(balance(AlignmentSettings(balance="gradient_ratio"), 10), GradientRatio)
    with pytest.raises(ConfigError, match="alpha_end"):
        AlignmentSettings.of({"balance": "gradient_ratio", "alpha_end": 1.0})


def test_annealing_is_a_straight_line_that_stays_at_its_end() -> None:
    line = Annealed(0.9, 1.0, 100)
    zero = torch.zeros(())
    found = [line(step, zero, zero, None, None) for step in (0, 50, 100, 200)]
    assert found == pytest.approx([0.9, 0.95, 1.0, 1.0])


def graph(pull: float, push: float) -> tuple[torch.Tensor, ...]:
    """Losses whose gradients at the speech tokens have known norms: 2 pull and 2 push, over 4 real tokens."""
    speech = torch.zeros(2, 3, 5, requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, True, False]])
    entering = speech * 1.0
    ce = pull * entering[..., 0].sum()
    alignment = (
        push * entering[..., 1].sum() + 100 * entering[:, 2].sum()
    )  # what is masked counts for nothing
    return ce, alignment, entering, mask


@pytest.mark.parametrize(("pull", "push"), [(1.0, 3.0), (1e-4, 2e-3), (5.0, 5.0)])
def test_the_gradients_have_the_wanted_ratio(pull: float, push: float) -> None:
    weigh = GradientRatio(0.99, ratio=0.25)
    alpha = float(weigh(0, *graph(pull, push)))
    assert (1 - alpha) * push / (alpha * pull) == pytest.approx(0.25, rel=1e-4)
    assert weigh.norms.tolist() == pytest.approx([2 * pull, 2 * push])


def test_the_estimate_runs_and_rests_between_measurements() -> None:
    weigh = GradientRatio(0.99, ratio=0.25)
    first = weigh(0, *graph(1.0, 1.0))
    assert all(torch.equal(first, weigh(step, *graph(1.0, 9.0))) for step in range(1, EVERY))
    later = weigh(EVERY, *graph(1.0, 9.0))
    assert first < later < 9 / (9 + 0.25)
    assert float(GradientRatio(0.99, 0.25)(0, *graph(1.0, 0.0))) == LEAST


@pytest.fixture(scope="module")
def stage1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(tiny.pretrain_settings(tmp_path_factory.mktemp("stage1"), max_steps=1)).folder


@pytest.mark.parametrize(
    "way",
    [{"balance": "gradient_ratio", "ratio": 0.5}, {"alpha": 0.8, "alpha_end": 1.0}],
    ids=lambda way: next(iter(way)),
)
def test_resumed_equals_uninterrupted(
    way: dict, stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aista.training.balance.EVERY", 2)

    def settings(name: str):
        alignment = {"layers": [1], **way}
        return tiny.joint_settings(tmp_path, str(stage1), output=str(tmp_path / name), alignment=alignment)

    whole = joint(settings("whole")).folder
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupted_after(3, patch)
        joint(settings("parts"))
    parts = joint(settings("parts")).folder
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
    logged = [
        [row["alpha"] for row in json.loads((folder / "history.json").read_text()) if "alpha" in row]
        for folder in (whole, parts)
    ]
    assert logged[0] == logged[1] and len(set(logged[0])) > 1
    if "alpha_end" in way:
        assert logged[0] == pytest.approx([0.8, 0.85, 0.9, 0.95])
