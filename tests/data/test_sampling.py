"""Order of training: every item as often as asked, the same in every run, little padding, exact resume."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from aista.data.sampling import LengthGroupedSampler, padding_waste
from aista.errors import TrainingError


@given(st.integers(1, 300), st.integers(1, 20), st.integers(0, 9), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_every_item_once_and_reproducible(count, batch_size, seed, epoch):
    lengths = np.random.default_rng(0).gamma(3, 2, count)
    order = LengthGroupedSampler(lengths, batch_size, seed).order(epoch)
    assert sorted(order) == list(range(count))
    assert np.array_equal(order, LengthGroupedSampler(lengths, batch_size, seed).order(epoch))


def test_epochs_and_seeds_differ():
    lengths = np.ones(100)
    orders = [LengthGroupedSampler(lengths, 4, seed).order(epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_padding_is_much_less_than_in_random_order():
    rng = np.random.default_rng(0)
    lengths = rng.gamma(3, 2, 10_000)
    sampler = LengthGroupedSampler(lengths, 32, 0)
    random_waste = padding_waste(lengths, rng.permutation(10_000), 32)
    assert random_waste > 0.4
    assert sampler.padding_waste() < 0.1 * random_waste
    assert padding_waste([2.0, 4.0, 3.0], np.array([0, 1, 2]), 2) == pytest.approx(1 - 9 / 11)


def test_an_epoch_is_the_same_in_every_run():
    lengths = np.random.default_rng(0).gamma(3, 2, 103)
    sampler = LengthGroupedSampler(lengths, 8, seed=3)
    sampler.set_epoch(4)
    batches = list(DataLoader(range(103), batch_size=8, sampler=sampler, collate_fn=list))
    again = LengthGroupedSampler(lengths, 8, seed=3)
    again.set_epoch(4)
    assert list(DataLoader(range(103), batch_size=8, sampler=again, collate_fn=list)) == batches


@given(st.integers(2, 60), st.integers(1, 60), st.floats(0.1, 10.0), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_weights_are_shares_and_no_item_is_forgotten(first, second, weight, seed):
    groups = ["asr"] * first + ["aac"] * second
    sampler = LengthGroupedSampler(
        np.ones(first + second), 4, seed, groups=groups, weights={"asr": weight, "aac": 1.0}
    )
    seen: Counter[int] = Counter()
    for epoch in range(5):
        order = sampler.order(epoch)
        assert len(order) == len(sampler)
        share = np.mean(order < first)
        assert abs(share - weight / (weight + 1)) <= 1 / len(sampler) + 1e-9
        seen.update(order.tolist())
    for members in (range(first), range(first, first + second)):
        times = [seen[i] for i in members]
        assert max(times) - min(times) <= 1


def test_contradictions_are_refused():
    for arguments in [
        {"lengths": [], "batch_size": 2},
        {"lengths": [1.0], "batch_size": 0},
        {"lengths": [1.0], "batch_size": 1, "weights": {"a": 1.0}},
        {"lengths": [1.0], "batch_size": 1, "weights": {"a": 1.0}, "groups": ["b"]},
        {"lengths": [1.0], "batch_size": 1, "weights": {"a": 1.0, "b": 1.0}, "groups": ["b"]},
        {"lengths": [1.0], "batch_size": 1, "weights": {"b": 0.0}, "groups": ["b"]},
    ]:
        with pytest.raises(TrainingError):
            LengthGroupedSampler(**arguments)


def test_transformers_trainer_sets_the_epoch_through_the_loader():
    from accelerate import Accelerator

    sampler = LengthGroupedSampler(np.ones(10), 2)
    loader = Accelerator(cpu=True).prepare(DataLoader(range(10), batch_size=2, sampler=sampler))
    loader.set_epoch(3)
    assert sampler.epoch == 3
