"""Exact ranks and decisions against float64 POT on every pair."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from scipy.spatial.distance import cdist

from aista.errors import TransportError
from aista.ot import solve
from aista.ot.bounds import product_bounds
from aista.retrieval import (
    chance_mrr,
    control_ranks,
    decide_mrr,
    exact_ranks,
    merge,
    mrr,
    pair_distances,
)
from aista.retrieval.cascade import Cascade


def layer(count, dim, alignment, seed=0, massive=False, outlier=False):
    """Synthetic hidden states: a spectrum that falls like k^-0.7, a Zipf vocabulary, a modality gap."""
    rng = np.random.default_rng(seed)
    scale = np.arange(1, dim + 1) ** -0.35
    scale /= np.sqrt((scale**2).sum())
    words = rng.normal(size=(300, dim)) * scale
    odds = 1 / np.arange(1, 301)
    gap = rng.normal(size=dim) * scale
    speech, text = [], []
    for _ in range(count):
        m = int(np.clip(rng.lognormal(2.0, 0.5), 1, 20))
        n = max(1, round(1.35 * m))
        spoken = rng.choice(300, m, p=odds / odds.sum())
        text.append(words[spoken] + 0.3 * rng.normal(size=(m, dim)) * scale)
        noise = rng.normal(size=(n, dim)) * scale
        speech.append(alignment * words[spoken[np.arange(n) * m // n]] + (1 - alignment) * noise + gap)
    for cloud in speech + text:
        if massive:
            cloud[:, [3, 17]] += 3000 * (1 + 0.02 * rng.normal(size=(len(cloud), 2)))
    if outlier:
        speech[1][0, 5] = text[2][0, 5] = 1e4
    return [[torch.tensor(c, dtype=torch.float32) for c in clouds] for clouds in (speech, text)]


def all_distances(speech, text):
    """POT in float64 on directly differenced costs."""
    xs, ys = [x.double().numpy() for x in speech], [y.double().numpy() for y in text]
    return np.array([[ot.emd2([], [], cdist(x, y, "sqeuclidean")) for y in ys] for x in xs])


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"alignment": 0.0},
        {"alignment": 0.15},
        {"alignment": 0.4},
        {"alignment": 0.4, "massive": True},
        {"alignment": 0.3, "outlier": True},
    ],
    ids=["chance", "middle", "aligned", "massive", "outlier"],
)
def test_ranks_equal_pot(options):
    speech, text = layer(40, 48, **options)
    distances = all_distances(speech, text)
    gold = distances.diagonal()
    ranking = exact_ranks(speech, text, block_size=100)
    np.testing.assert_array_equal(ranking.ranks, 1 + (distances < gold[:, None]).sum(1))
    np.testing.assert_allclose(ranking.gold, gold, rtol=1e-9)
    assert ranking.mrr == pytest.approx(mrr(ranking.ranks))
    assert sum(ranking.stages.values()) == 40 * 40
    assert ranking.num_ties == 0


@pytest.mark.stress
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("alignment", [0.0, 0.15, 0.4])
@pytest.mark.parametrize("massive", [False, True])
def test_ranks_equal_pot_on_200_by_200(alignment, massive):
    speech, text = layer(200, 256, alignment, seed=11, massive=massive)
    distances = all_distances(speech, text)
    ranking = exact_ranks(speech, text)
    np.testing.assert_array_equal(ranking.ranks, 1 + (distances < distances.diagonal()[:, None]).sum(1))


@pytest.mark.parametrize("threshold", [0.02, 0.1, 0.3, 0.9])
@pytest.mark.parametrize("alignment", [0.0, 0.2, 0.5])
def test_decisions_follow_from_exact_ranks(alignment, threshold):
    speech, text = layer(60, 32, alignment, seed=3)
    ranking = exact_ranks(speech, text)
    decision = decide_mrr(speech, text, threshold)
    assert decision.selected == (ranking.mrr > threshold)
    assert decision.low - 1e-12 <= ranking.mrr <= decision.high + 1e-12
    best = 1 + decision.nearer
    assert decision.high == pytest.approx((1 / best).mean())
    assert decision.low == pytest.approx((1 / (best + 59 - decision.judged)).mean())
    assert (best <= ranking.ranks).all() and (ranking.ranks <= best + 59 - decision.judged).all()


@pytest.mark.parametrize("near", [0.99, 0.997, 1.0, 1.003, 1.01])
def test_a_whole_budget_decides_however_near_the_threshold_lies(near):
    for count, seed in ((60, 3), (150, 4)):
        speech, text = layer(count, 32, 0.1, seed=seed)
        exact = exact_ranks(speech, text).mrr
        decision = decide_mrr(speech, text, near * exact)
        assert decision.selected is (exact > near * exact)
        assert decision.pairs_touched <= count * (count - 1)  # a pair counts once


def test_a_budget_may_leave_it_open():
    speech, text = layer(60, 32, 0.2, seed=3)
    decision = decide_mrr(speech, text, 0.2, budget=0.01)
    assert decision.selected is None and decision.low <= 0.2 <= decision.high


def test_duplicates_tie_and_equal_texts_are_not_rivals():
    speech, text = layer(12, 16, 0.3, seed=5)
    text[7] = text[4].clone()
    text[9] = text[4].clone()
    strict = exact_ranks(speech, text)
    assert strict.num_ties == 6  # items 4, 7 and 9 each meet two equals
    assert strict.mrr_pessimistic < strict.mrr
    names = [str(i) for i in range(12)]
    names[7] = names[9] = names[4]
    named = exact_ranks(speech, text, texts=names)
    assert named.num_ties == 0 and named.stages["same_text"] == 12 + 6
    distances = all_distances(speech, text)
    others = np.array([[a != b for b in names] for a in names])
    np.testing.assert_array_equal(
        named.ranks, 1 + ((distances < distances.diagonal()[:, None]) & others).sum(1)
    )


def test_the_same_tokens_in_another_order_tie():
    """Sums in another order differ in their last digits: less than float64 can tell is no difference."""
    speech, text = layer(12, 16, 0.3, seed=5)
    speech[4] = text[4].clone()  # its distance is 0, and so is that of its two rivals
    text[7], text[9] = text[4].flip(0), text[4].roll(1, 0)
    ranking = exact_ranks(speech, text)
    assert ranking.ties[[4, 7, 9]].tolist() == [2, 2, 2] and ranking.num_ties == 6
    assert ranking.ranks[4] == 1


def test_repeated_token_rows_are_multiplied_once():
    """Layer 0: text rows are vocabulary rows."""
    rng = torch.Generator().manual_seed(0)
    words = torch.randn(20, 24, generator=rng) + 3
    text = [
        words[torch.randint(20, (int(k),), generator=rng)] for k in torch.randint(2, 12, (40,), generator=rng)
    ]
    speech = [
        0.5 * t.repeat_interleave(2, 0) + 0.4 * torch.randn(2 * len(t), 24, generator=rng) for t in text
    ]
    distances = all_distances(speech, text)
    ranking = exact_ranks(speech, text, block_size=64)
    nearer = distances < distances.diagonal()[:, None] * (1 - 1e-12)
    np.testing.assert_array_equal(ranking.ranks, 1 + nearer.sum(1))


@pytest.mark.slow
def test_blocks_threads_and_progress_change_nothing():
    speech, text = layer(30, 20, 0.2, seed=6)
    whole = exact_ranks(speech, text, threads=1)
    seen = []
    pieces = exact_ranks(
        speech, text, block_size=7, threads=3, progress=lambda done, of: seen.append((done, of))
    )
    np.testing.assert_array_equal(whole.ranks, pieces.ranks)
    assert seen[-1] == (30, 30) and seen == sorted(seen)


def test_one_pair_single_tokens_and_equal_clouds():
    one = [torch.ones(1, 3)]
    assert exact_ranks(one, one).mrr == 1.0
    assert decide_mrr(one, one, 0.5).selected is True
    same = [torch.ones(1 + k % 3, 4) for k in range(6)]
    ranking = exact_ranks(same, same)
    assert (ranking.ranks == 1).all() and ranking.num_ties == 30
    assert ranking.mrr_pessimistic == pytest.approx(1 / 6)


def test_pair_distances_and_half_precision():
    speech, text = layer(10, 16, 0.2, seed=7)
    wanted = all_distances(speech, text).diagonal()
    np.testing.assert_allclose(pair_distances(speech, text, threads=2), wanted, rtol=1e-9)
    far = [[c.double() + 1e6 for c in clouds] for clouds in (speech, text)]
    np.testing.assert_allclose(pair_distances(*far), wanted, rtol=1e-6)
    assert (pair_distances(text, [c.flip(0) for c in text]) >= 0).all()
    many = [torch.randn(600, 1, 4) for _ in range(2)]  # more than are solved at once; of one token each
    np.testing.assert_allclose(pair_distances(*many), (many[0] - many[1]).square().sum((1, 2)), rtol=1e-5)
    half = [c.bfloat16() for c in speech], [c.bfloat16() for c in text]
    again = [[c.float() for c in clouds] for clouds in half]
    np.testing.assert_array_equal(exact_ranks(*half).ranks, exact_ranks(*again).ranks)


def test_control_falls_to_chance_where_gold_does_not():
    speech, text = layer(60, 32, 0.6, seed=8)
    assert exact_ranks(speech, text).mrr > 0.8
    assert control_ranks(speech, text).mrr < 0.35


def test_the_control_hands_nobody_its_own_sentence_in_another_voice():
    """40 different sentences, or 20 that are said twice each: what is wrong stays wrong."""
    rng = np.random.default_rng(2)
    words = [torch.tensor(rng.normal(size=(1, 32)), dtype=torch.float32) for _ in range(40)]
    twice = [words[i // 2] for i in range(40)]
    named = [i // 2 for i in range(40)]
    assert exact_ranks(twice, twice, texts=named).mrr == 1.0
    assert control_ranks(twice, twice, texts=named).mrr < 0.2
    assert control_ranks(words, words).mrr < 0.2
    own = control_ranks(twice[:2], twice[:2], texts=named[:2])  # there is no wrong one
    assert own.mrr == own.mrr_pessimistic == 1.0


def test_scores():
    assert mrr([1, 2, 4]) == pytest.approx((1 + 0.5 + 0.25) / 3)
    assert np.isnan(mrr([]))
    assert chance_mrr(1) == 1.0
    assert chance_mrr(1000) == pytest.approx(0.00749, abs=1e-5)
    assert chance_mrr(2, "aa") == 1.0
    assert chance_mrr(3, "aab") == pytest.approx(((2 + 1 / 3) + (1 + 2 / 2)) / 2 / 3, rel=0.02)  # both orders
    assert chance_mrr(1000, [i % 10 for i in range(1000)]) == pytest.approx(0.1028, abs=1e-4)


def test_chance_is_what_random_states_reach_where_sentences_are_spoken_often():
    """Copies of a sentence have the same states of text: they stand before a clip together, or not at all."""
    named, values = [min(i % 9, 6) for i in range(90)], []
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        speech, sentences = (torch.randn(count, 3, 4, generator=generator) for count in (90, 7))
        found = exact_ranks(list(speech), [sentences[i] for i in named], texts=named)
        values.append(found.mrr)
    assert found.chance == chance_mrr(90, named) > 3 * chance_mrr(90)
    assert np.mean(values) == pytest.approx(found.chance, rel=0.05)


def test_what_cannot_be_compared_says_so():
    speech, text = layer(5, 8, 0.2)
    with pytest.raises(TransportError, match="in pairs"):
        exact_ranks(speech, text[:4])
    with pytest.raises(TransportError, match="in pairs"):
        exact_ranks([], [])
    with pytest.raises(TransportError, match="text item 3 holds NaN"):
        exact_ranks(speech, [*text[:3], text[3] * torch.nan, text[4]])
    with pytest.raises(TransportError, match=r"speech item 0 .*at least one token"):
        pair_distances([torch.empty(0, 8), *speech[1:]], text)
    with pytest.raises(TransportError, match="one dimension"):
        exact_ranks([speech[0][:, :4], *speech[1:]], text)
    with pytest.raises(TransportError, match="name every text"):
        exact_ranks(speech, text, texts=["a"])
    with pytest.raises(TransportError, match="threshold"):
        decide_mrr(speech, text, 2.0)


def test_parts_of_processes_make_the_whole():
    speech, text = layer(23, 20, 0.2, seed=8)
    text[5] = text[4].clone()
    whole = exact_ranks(speech, text)
    parts = []
    for rank in range(3):
        mine = range(rank, 23, 3)
        held = [cloud if i in mine else cloud[:0] for i, cloud in enumerate(speech)]  # others are never read
        parts.append(exact_ranks(held, text, queries=mine))
    joined = merge(parts[::-1])
    for name in ("ranks", "ties", "gold", "queries"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    for name in ("mrr", "mrr_pessimistic", "chance", "num_ties", "stages", "num_texts"):
        assert getattr(joined, name) == getattr(whole, name)
    with pytest.raises(TransportError, match="share items"):
        merge([parts[0], parts[0]])
    with pytest.raises(TransportError, match="same texts"):
        merge([parts[0], exact_ranks(speech[:4], text[:4])])
    for absent in (23, -1):
        with pytest.raises(TransportError, match="queries"):
            exact_ranks(speech, text, queries=[absent])


@pytest.mark.parametrize("alignment", [0.0, 0.3])
def test_bounds_on_the_device_change_nothing(alignment, monkeypatch):
    speech, text = layer(40, 24, alignment, seed=9)
    host = exact_ranks(speech, text, block_size=90)
    monkeypatch.setattr("aista.retrieval.cascade.bounds_on_device", lambda tokens: True)
    device = exact_ranks(speech, text, block_size=90)
    np.testing.assert_array_equal(host.ranks, device.ranks)
    assert sum(device.stages.values()) == 40 * 40
    # Both know the relaxed bound; the dual one may see a pair that the other had settled.
    assert device.stages["relaxed"] == pytest.approx(host.stages["relaxed"], abs=8)


def test_autocast_and_fast_products_are_kept_out():
    speech, text = layer(30, 200, 0.1, seed=12)
    wanted = exact_ranks(speech, text)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = exact_ranks(speech, text)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    np.testing.assert_array_equal(wanted.ranks, found.ranks)
    assert wanted.stages == found.stages


def test_device_bounds_are_bounds():
    rng = torch.Generator().manual_seed(3)
    rows, cols = torch.tensor([3, 1, 5]), torch.tensor([2, 6])
    products = torch.randn(9, 8, generator=rng)
    for bound in product_bounds(products, rows, cols):
        for q, block in enumerate(products.split(rows.tolist())):
            for p, part in enumerate(block.split(cols.tolist(), 1)):
                assert -solve(-part).value <= bound[p, q] + 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_slack_covers_what_rounding_does(dtype):
    """The identity behind the cascade, evaluated exactly, against POT on the states as given."""
    speech, text = (
        [(5 * cloud).to(dtype) + 30 for cloud in clouds] for clouds in layer(12, 400, 0.2, seed=10)
    )
    cascade = Cascade(speech, text)
    items = np.arange(12)
    cascade.need_gold(items)
    ours = cascade.speech.tokens(items)
    tile = cascade._tile(items, items, ours)
    xs = ours.split(cascade.speech.lengths.tolist())
    ys = cascade.text.tokens(items).split(cascade.text.lengths.tolist())
    distances = all_distances(speech, text)
    for i, j in np.ndindex(12, 12):
        exact = -solve(-(ys[j].double() @ xs[i].double().T)).value
        difference = 0.5 * (cascade.gold[i] - distances[i, j])  # = max <Z, G> - target
        assert abs(exact - tile.targets[i, j] - difference) <= tile.slacks[i, j]
        rough = -solve(-(ys[j] @ xs[i].T).double()).value
        assert abs(rough - tile.targets[i, j] - difference) <= tile.rough[i, j]


def test_pairs_within_float32_rounding_are_decided_by_better_products():
    """Gold and rival differ by less than a float32 product can tell."""
    rng = torch.Generator().manual_seed(4)
    text = [torch.randn(6, 2000, generator=rng) for _ in range(2)]
    text[1] = text[0].clone()
    text[1][3, 7] += 1e-3
    speech = [torch.randn(8, 2000, generator=rng), torch.randn(8, 2000, generator=rng)]
    ranking = exact_ranks(speech, text)
    distances = all_distances(speech, text)
    np.testing.assert_array_equal(ranking.ranks, 1 + (distances < distances.diagonal()[:, None]).sum(1))
    assert ranking.stages["sharpened"] + ranking.stages["undecided"] == 2
