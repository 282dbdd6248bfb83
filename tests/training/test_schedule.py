"""The learning rate of the paper's A.1, and SALMONN's restarts for those who compare with it."""

from __future__ import annotations

import pytest

from aista.config import TrainSettings
from aista.training.optimisation import learning_rate

PAPER = TrainSettings()


def test_the_papers_values() -> None:
    assert learning_rate(0, PAPER) == pytest.approx(1e-6)
    assert learning_rate(8_999, PAPER) == pytest.approx(2.99968e-5, rel=1e-5)
    assert learning_rate(9_000, PAPER) == pytest.approx(2.93819e-5, rel=1e-5)
    assert learning_rate(40_000, PAPER) == pytest.approx(2.0e-5)
    assert learning_rate(80_000, PAPER) == learning_rate(99_999, PAPER) == pytest.approx(1e-5)


def test_it_rises_and_then_falls() -> None:
    rates = [learning_rate(step, PAPER) for step in range(0, 80_001, 250)]
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top]) and rates[top + 1 :] == sorted(rates[top + 1 :], reverse=True)


def test_salmonns_restarts() -> None:
    restarting = PAPER.model_copy(update={"salmonn_epoch_steps": 3_000})
    assert learning_rate(3_000, restarting) == learning_rate(6_000, restarting) == pytest.approx(1e-6)
    assert max(learning_rate(step, restarting) for step in range(9_000)) < 1.07e-5
    assert learning_rate(9_000, restarting) == learning_rate(9_000, PAPER)
