"""States with known massive tokens: the paper's cost sees nothing else, the two other costs see the text."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aista.config import SelectSettings
from aista.retrieval.tokens import under_cost
from aista.selection.hidden_states import LayerStates
from aista.selection.select import LayerReport, about_layer, length_only_mrr, rank_layers
from aista.speech_llm import Batch
from aista.speech_llm.batch import Row
from aista.speech_llm.pairs import compared

PAIRS, WIDTH, ROGUE = 40, 64, (3, 17, 40, 55)


def pairs(massive: float, seed: int = 0) -> LayerStates:
    """Speech that is its text, each token twice, in noise; the first token of either side is massive.

    Args:
        massive: What stands in the four rogue dimensions of the first tokens; of the others 0.
    """
    rng = np.random.default_rng(seed)
    speech, text = [], []
    for _ in range(PAIRS):
        words = rng.standard_normal((int(rng.integers(4, 13)), WIDTH)).astype(np.float32)
        spoken = np.repeat(words, 2, axis=0)
        sides = [spoken + 0.5 * rng.standard_normal(spoken.shape).astype(np.float32), words.copy()]
        for side in sides:
            side[0, ROGUE] += massive * rng.uniform(0.8, 1.2)
        speech.append(sides[0])
        text.append(sides[1])
    return LayerStates(6, speech, text)


def report(states: LayerStates, **changes: object) -> LayerReport:
    settings = SelectSettings.of(
        {
            "output": "o",
            "model": "m",
            "data": ["d"],
            "num_pairs": PAIRS,
            "threshold_times_chance": 3,
            **changes,
        }
    )
    return rank_layers([states], [f"sentence {i}" for i in range(PAIRS)], settings, name="m")


def test_massive_tokens_swamp_the_papers_cost_and_not_the_others() -> None:
    found = report(pairs(massive=300.0)).rows[0]
    by_cost = found.mrr_by_cost
    assert by_cost["squared_euclidean"] < 0.35 < 0.95 < min(by_cost["cosine"], by_cost["standardised"])
    assert found.swamped
    assert found.energy_top_dims_speech > 0.95
    tokens, energy = (f"{what}_{{}}".format for what in ("massive", "energy_top_dims"))
    calm = dict.fromkeys((name(side) for name in (tokens, energy) for side in ("speech", "text")), 0.0)
    for one in ("speech", "text"):  # few tokens and few dimensions of one side, together
        for other, swamped in ((one, True), ({"speech": "text", "text": "speech"}[one], False)):
            changed = calm | {tokens(one): 0.01, energy(other): 0.5}
            assert found.model_copy(update=changed).swamped is swamped


def test_without_massive_tokens_all_costs_agree_and_nothing_is_warned_of() -> None:
    chosen = report(pairs(massive=0.0))
    assert min(chosen.rows[0].mrr_by_cost.values()) > 0.95
    assert not chosen.warnings and not chosen.rows[0].swamped


@pytest.mark.parametrize("cost", ["cosine", "standardised"])
def test_a_layer_is_chosen_by_the_cost_that_was_asked_for(cost: str) -> None:
    states = pairs(massive=300.0)
    letter, ours = (
        report(states, threshold_times_chance=6),
        report(states, threshold_times_chance=6, cost=cost),
    )
    assert (letter.selected, ours.selected) == ([], [6])
    assert ours.rows[0].mrr == letter.rows[0].mrr_by_cost[cost]
    assert len(letter.warnings) == 1 and "[6]" in letter.warnings[0] and not ours.warnings


def test_decide_mode_takes_the_cost_too() -> None:
    sure = report(pairs(massive=300.0), cost="cosine")
    bounds = report(pairs(massive=300.0), cost="cosine", mode="decide").rows[0]
    assert bounds.low - 1e-9 <= sure.rows[0].mrr <= bounds.high + 1e-9 and not bounds.mrr_by_cost
    assert bounds.mean_distance == pytest.approx(sure.rows[0].mean_distance, rel=1e-9)
    assert 2 * bounds.mrr == bounds.low + bounds.high and bounds.selected == (sure.selected == [6])


def test_crowding_counts_what_was_put_in() -> None:
    tokens = torch.ones(50, 10)
    tokens[:10, 7] = 100.0
    even = torch.ones(5, 10)
    found = about_layer(
        LayerStates(6, [tokens[:20].numpy(), tokens[20:].numpy()], [even.numpy()] * 2), ["a", "b"]
    )
    assert found["massive_speech"] == pytest.approx(10 / 50) and found["massive_text"] == 0.0
    assert found["energy_top_dims_speech"] == pytest.approx((1e5 + 40 + 150) / (1e5 + 40 + 450))
    assert found["energy_top_dims_text"] == pytest.approx(0.4)
    long = (9 + 1e4) ** 0.5
    assert found["norm_speech"] == pytest.approx((40 * 10**0.5 + 10 * long) / 50)
    assert found["norm_text"] == pytest.approx(10**0.5)
    mean = np.ones(10)
    mean[7] = (40 + 1000) / 50
    assert found["cosine_of_means"] == pytest.approx(mean.sum() / np.linalg.norm(mean) / 10**0.5)


def test_lengths_alone() -> None:
    """Lengths that decide, that say nothing, and that decide up to pairs of equal length."""

    def clouds(lengths: list[int]) -> list[torch.Tensor]:
        return [torch.zeros(length, 2) for length in lengths]

    written, names = [3, 5, 8, 13, 21, 34], list("abcdef")
    assert length_only_mrr(clouds([2 * n + 1 for n in written]), clouds(written), names) == 1.0
    assert length_only_mrr(clouds([5, 6, 8, 13]), clouds([15, 16, 18, 23]), "abcd") == 1.0  # ten more
    twice = [3, 3, 5, 5, 8, 8]
    assert length_only_mrr(clouds([2 * n for n in twice]), clouds(twice), names) == pytest.approx(1 / 1.5)
    assert length_only_mrr(clouds([4] * 6), clouds([7] * 6), names) == pytest.approx(1 / 3.5)
    voices = "aabbcc"  # each sentence by two voices: no rivals, so lengths decide
    assert length_only_mrr(clouds([2 * n for n in twice]), clouds(twice), voices) == 1.0
    assert length_only_mrr(clouds([4] * 6), clouds([7] * 6), voices) == pytest.approx(1 / 3)


def test_costs_are_squared_distances_of_mapped_clouds() -> None:
    states = pairs(massive=300.0)
    speech, text = [torch.from_numpy(x) for x in states.speech], [torch.from_numpy(x) for x in states.text]
    unit = under_cost(speech, text, "cosine")
    assert all(torch.allclose(cloud.norm(dim=1), torch.ones(len(cloud))) for side in unit for cloud in side)
    mapped = under_cost(speech, text, "standardised")
    for side in mapped:
        assert torch.cat(side).square().sum(1).mean() == pytest.approx(1.0, rel=1e-3)
    assert under_cost(speech, text, "squared_euclidean")[0][0] is speech[0]


def test_the_report_keeps_and_draws_all_curves(tmp_path) -> None:
    made = report(pairs(massive=300.0))
    made.save(tmp_path / "layers.json")
    assert LayerReport.load(tmp_path / "layers.json") == made
    made.plot(tmp_path / "layers.png")
    assert (tmp_path / "layers.png").stat().st_size > 5_000


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_cloud_is_the_span_or_all_up_to_its_end(side: str) -> None:
    """Three tokens of prompt, a span of two (or four), an instruction and a target behind it."""
    rows = [Row([1, 2, 3, 9, 9, 4], 3, 5, [7]), Row([1, 2, 3, 9, 9, 9, 9, 4, 4], 3, 7, [7, 7])]
    batch = Batch.of_rows(rows, 0, side)
    span, whole = compared(batch, "span"), compared(batch, "sequence")
    assert span.sum(1).tolist() == [2, 4] and whole.sum(1).tolist() == [5, 7]
    assert [row[kept].tolist() for row, kept in zip(batch.input_ids, whole, strict=True)] == [
        [1, 2, 3, 9, 9],
        [1, 2, 3, 9, 9, 9, 9],
    ]
