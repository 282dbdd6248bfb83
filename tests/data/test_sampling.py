"""Order of training: every item as often as asked, the same in every run, little padding, exact resume."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aista.data.sampling import LengthGroupedSampler, padding_waste, rounds, shares
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


def test_every_epoch_has_other_batches_in_no_order_of_length():
    lengths = np.random.default_rng(0).permutation(240).astype(float)
    epochs = [LengthGroupedSampler(lengths, 4, pool_batches=10).order(epoch) for epoch in (0, 1)]
    batches = [{frozenset(batch) for batch in order.reshape(-1, 4).tolist()} for order in epochs]
    assert len(batches[0] & batches[1]) < 6  # of 60
    longest = lengths[LengthGroupedSampler(lengths, 4).order(0)].reshape(-1, 4).max(1)  # all from one pool
    assert 0.3 < np.mean(np.diff(longest) > 0) < 0.7


def test_padding_is_much_less_than_in_random_order():
    rng = np.random.default_rng(0)
    lengths = rng.gamma(3, 2, 10_000)
    sampler = LengthGroupedSampler(lengths, 32, 0)
    random_waste = padding_waste(lengths, rng.permutation(10_000), 32)
    assert random_waste > 0.4
    assert sampler.padding_waste() < 0.1 * random_waste
    assert padding_waste([2.0, 4.0, 3.0], np.array([0, 1, 2]), 2) == pytest.approx(1 - 9 / 11)


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


def test_what_rounding_leaves_goes_to_the_largest_remainder():
    assert shares({"a": 53, "b": 24, "c": 23}, 10) == {"a": 5, "b": 3, "c": 2}


def test_every_round_holds_every_item_in_an_order_of_its_own():
    items = np.arange(50)
    first, second = rounds(items, 0, 50, [1]), rounds(items, 50, 50, [1])
    assert sorted(first) == sorted(second) == items.tolist() and not np.array_equal(first, second)
    assert np.array_equal(rounds(items, 20, 60, [1]), np.concatenate([first, second])[20:80])


def test_files_by_themselves_are_mixed_with_those_in_archives():
    """Or every batch would hold one corpus alone, where only one of two lies in shards."""
    blocks = np.concatenate([np.repeat(np.arange(50), 2), np.full(100, -1)])
    order = LengthGroupedSampler(np.ones(200), 4, blocks=blocks, pool_batches=1).order(0)
    alone = (blocks[order.reshape(-1, 4)] < 0).sum(1)
    assert ((alone > 0) & (alone < 4)).sum() > 10


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
