"""Exact ranks and decisions against float64 POT on every pair."""

from __future__ import annotations

import os

import numpy as np
import ot
import pytest
import torch

from aista.errors import TransportError
from aista.retrieval import chance_mrr, control_ranks, decide_mrr, exact_ranks, mrr, pair_distances


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
    return np.array([[ot.emd2([], [], np.square(x[:, None] - y[None]).sum(-1)) for y in ys] for x in xs])


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


@pytest.mark.slow
@pytest.mark.skipif("AISTA_SLOW" not in os.environ, reason="minutes of POT: set AISTA_SLOW=1")
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


def test_repeated_token_rows_are_multiplied_once():
    """Layer 0: text rows are vocabulary rows."""
    rng = torch.Generator().manual_seed(0)
    words = torch.randn(20, 24, generator=rng)
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
    half = [c.bfloat16() for c in speech], [c.bfloat16() for c in text]
    again = [[c.float() for c in clouds] for clouds in half]
    np.testing.assert_array_equal(exact_ranks(*half).ranks, exact_ranks(*again).ranks)


def test_control_falls_to_chance_where_gold_does_not():
    speech, text = layer(60, 32, 0.6, seed=8)
    assert exact_ranks(speech, text).mrr > 0.8
    assert control_ranks(speech, text).mrr < 0.35


def test_scores():
    assert mrr([1, 2, 4]) == pytest.approx((1 + 0.5 + 0.25) / 3)
    assert np.isnan(mrr([]))
    assert chance_mrr(1) == 1.0
    assert chance_mrr(1000) == pytest.approx(0.00749, abs=1e-5)


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
