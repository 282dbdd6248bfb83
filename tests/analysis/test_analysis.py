"""Measures on data whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from aista.analysis.comparison import (
    Answered,
    Point,
    by_group,
    by_seed,
    correlate,
    find_cases,
    gain,
    pooled,
)
from aista.analysis.embedding_map import MeanStates, closeness, density, mean_states, plane
from aista.data.dataset import SpeechDataset
from aista.data.manifest import Manifest
from aista.errors import EvaluationError
from aista.model import AistaForConditionalGeneration, AistaProcessor
from tests import tiny

QFORMER = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}

RNG = np.random.default_rng(0)
CLOUD = RNG.standard_normal((40, 8))


def test_equal_clouds_are_close_and_inseparable():
    found = closeness(MeanStates(CLOUD, CLOUD))
    assert found.centroid_distance == found.paired_distance == found.pairing == 0
    assert found.separability <= 0.5 and found.text_spread == pytest.approx(8**0.5, rel=0.15)


def test_a_shift_is_measured_and_parts_the_clouds():
    shift = np.full(8, 10.0)
    found = closeness(MeanStates(CLOUD + shift, CLOUD))
    assert found.centroid_distance == found.paired_distance == pytest.approx(10 * 8**0.5)
    assert found.separability == 1 and 0.9 < found.pairing < 1.1
    assert found.relative_centroid_distance == pytest.approx(10 * 8**0.5 / found.text_spread)


def test_pairing_sees_what_centroids_do_not():
    own = closeness(MeanStates(CLOUD + 0.01, CLOUD))
    shuffled = closeness(MeanStates(CLOUD[::-1], CLOUD))
    assert own.pairing < 0.1 < 0.8 < shuffled.pairing
    with pytest.raises(EvaluationError):
        closeness(MeanStates(CLOUD[:3], CLOUD[:3]))


def test_the_plane_is_repeatable_and_equal_clouds_share_their_places():
    groups = {"a": CLOUD, "b": CLOUD + 50, "again": CLOUD.copy()}
    one, other = plane(groups, seed=1), plane(groups, seed=1)
    assert all(np.array_equal(one[name], other[name]) for name in groups)
    assert np.array_equal(one["a"], one["again"]) and one["a"].shape == (40, 2)
    apart = np.linalg.norm(one["a"].mean(0) - one["b"].mean(0))
    assert apart > one["a"].std() and apart > one["b"].std()


def test_density_regions_hold_their_share_and_have_outlines():
    points = RNG.standard_normal((2000, 2))
    found = density(points, (-4, 4, -4, 4))
    mass = found.values / found.values.sum()
    shares = [float(mass[found.values >= level].sum()) for level in found.levels]
    assert shares == pytest.approx([0.25, 0.5, 0.75], abs=0.02)
    radii = [np.linalg.norm(piece, axis=1).mean() for (piece, *_) in found.contours()]
    # A standard normal cloud holds a share p within sqrt(-2 ln(1 - p)).
    assert radii == pytest.approx([(-2 * np.log(1 - p)) ** 0.5 for p in (0.25, 0.5, 0.75)], rel=0.15)
    with pytest.raises(EvaluationError):
        density(np.outer(np.arange(9.0), [1, 1]), (0, 9, 0, 9))


def test_means_are_taken_over_each_clips_own_tokens(tmp_path):
    model = AistaForConditionalGeneration.from_bases(
        tiny.whisper(tmp_path / "whisper"), tiny.language_model(tmp_path / "lm"), None, qformer=QFORMER
    ).eval()
    processor = AistaProcessor.from_config(model.config)
    manifest = tiny.manifest(tmp_path / "asr.jsonl", task="asr")
    dataset = SpeechDataset([Manifest(manifest)])
    together = mean_states(model, processor, dataset, batch_size=12)
    alone = mean_states(model, processor, dataset, batch_size=1)
    assert together.speech.shape == together.text.shape == (12, 32)
    np.testing.assert_allclose(together.speech, alone.speech, atol=1e-5)
    np.testing.assert_allclose(together.text, alone.text, atol=1e-5)


def test_coefficients_equal_scipys():
    x, y = RNG.standard_normal(12), RNG.standard_normal(12)
    found = correlate(x, y)
    assert found.pearson.value == pytest.approx(stats.pearsonr(x, y).statistic)
    assert found.pearson.p_value == pytest.approx(stats.pearsonr(x, y).pvalue)
    fisher = stats.pearsonr(x, y).confidence_interval()
    assert (found.pearson.low, found.pearson.high) == pytest.approx((fisher.low, fisher.high))
    assert found.spearman.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found.spearman.p_value == pytest.approx(stats.spearmanr(x, y).pvalue, abs=0.03)
    for one in (found.pearson, found.spearman):
        assert one.low < one.value < one.high and one.n == 12


def test_too_few_runs_have_no_interval():
    line = correlate([1, 2, 3], [3, 2, 1])
    assert line.pearson.value == pytest.approx(-1) and line.pearson.low is None
    assert correlate([1, 2], [2, 1]).pearson.value is None
    assert correlate([1, 1, 1, 1], [1, 2, 3, 4]).spearman.value is None


def test_spearmans_permutation_test_is_exact_for_few_runs():
    assert correlate([1, 2, 3, 4], [8, 6, 5, 1]).spearman.p_value == pytest.approx(2 / 24)


def test_pooling_costs_degrees_of_freedom():
    x, y, groups = RNG.standard_normal(20), RNG.standard_normal(20), ["a", "b"] * 10
    found = correlate(x, y, groups).pearson
    dummy = np.array([g == "a" for g in groups], dtype=float)
    design = np.stack([np.ones(20), dummy], axis=1)
    rest = [v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (x, y)]
    partial = float(np.corrcoef(*rest)[0, 1])
    assert found.value == pytest.approx(partial)
    t = partial * (17 / (1 - partial**2)) ** 0.5  # 20 runs less two means and a slope
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(t), 17))
    two_each = [Point(g, 1, str(i), i, -i) for g in "ab" for i in range(2)]
    assert pooled(two_each).pearson.low is None


def test_permuting_within_groups_keeps_groups():
    apart = [Point("low", 1, "", float(i), RNG.random()) for i in range(8)]
    apart += [Point("high", 1, "", float(i) + 100, RNG.random() + 100) for i in range(8)]
    assert pooled(apart).spearman.p_value > 0.05


def test_pooling_takes_levels_away():
    points = [Point("zh", s, str(i), i, -i) for s in (1, 2) for i in range(4)]
    points += [Point("ja", s, str(i), i + 100, 100 - i) for s in (1, 2) for i in range(4)]
    assert pooled(points).pearson.value == pytest.approx(-1)
    assert correlate([p.x for p in points], [p.y for p in points]).pearson.value > 0.9
    assert set(by_group(points)) == {"zh", "ja"} and len(by_seed(points)) == 4


def rows(first: list[str], second: list[str]) -> list[Answered]:
    return [
        Answered(f"r{i}", f"clip{i // 2}", "zh", "source", "x" * 9, {"base": a, "ai_sta": b})
        for i, (a, b) in enumerate(zip(first, second, strict=True))
    ]


def score(hypothesis: str, reference: str) -> float:
    return float(len(hypothesis))


def test_cases_are_the_largest_differences_balanced_one_a_recording():
    made = rows(["a", "a", "aaaa", "a", "aa", "a"], ["aaaaa", "aaa", "a", "aa", "a", "a"])
    found = find_cases(made, score, first="base", second="ai_sta", count=3)
    assert [case.row.id for case in found.better] == ["r0"] and [case.row.id for case in found.worse] == [
        "r2"
    ]
    assert (found.num_better, found.num_worse, found.num_equal) == (3, 2, 1)
    assert found.better[0].difference == 4 and found.better[0].scores == {"base": 1.0, "ai_sta": 5.0}


def test_without_a_loss_no_win_is_shown():
    found = find_cases(rows(["a", "a"], ["aa", "aaa"]), score, first="base", second="ai_sta")
    assert found.better == found.worse == () and found.num_better == 2


def test_gains_are_paired_by_seed():
    found = gain([1.0, 2.0, 3.0], [2.0, 3.1, 3.9])
    assert found.mean == pytest.approx(1.0) and found.values == pytest.approx((1.0, 1.1, 0.9))
    assert found.p_value == pytest.approx(stats.ttest_rel([2.0, 3.1, 3.9], [1.0, 2.0, 3.0]).pvalue)
    assert found.is_clear and not gain([1.0], [9.0]).is_clear
    assert gain([0.1, 0.2, 0.3], [0.3, 0.4, 0.5]).p_value is None  # .2 each, but for rounding
    with pytest.raises(EvaluationError):
        gain([1.0], [])


def test_transfer_to_text():
    speech, text = ([10], [12]), ([30], [31])  # of two systems
    gaps = (gain(heard, read).mean for heard, read in zip(speech, text, strict=True))
    assert (gain(*speech).mean, gain(*text).mean, *gaps) == (2, 1, 20, 19)
    with pytest.raises(EvaluationError):
        gain([10], [])
