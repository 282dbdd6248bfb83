"""BLEU is sacreBLEU's, error rates obey the laws of a distance, and meaningless scores are refused."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aista.errors import EvaluationError
from aista.evaluation.metrics import bleu, chrf, wer
from aista.evaluation.significance import (
    bootstrap_over_seeds,
    paired_bootstrap,
    paired_hypotheses,
    paired_losses,
)
from aista.model.processing import take
from aista.speech_llm.decoder import Targets
from aista.text.normalize import edit_distance

ZH = ["医生昨天在公园买了一本红色的书", "我的老师明天想去图书馆", "他没有看见那只狗"]
ZH_HYP = ["医生昨天在公园买了一本蓝色的书", "我的老师明天去图书馆", "他没有看见那只狗"]
JA = ["医者は昨日公園で赤い本を買いました", "先生は明日図書館へ行きたいです", "彼はあの犬を見ませんでした"]
JA_HYP = ["医者は昨日公園で青い本を買いました", "先生は明日図書館に行きたい", "彼はあの犬を見ませんでした"]


@pytest.mark.parametrize(
    ("target", "tok", "hyp", "ref"), [("zh", "zh", ZH_HYP, ZH), ("ja", "ja-mecab", JA_HYP, JA)]
)
def test_bleu_is_what_sacrebleus_command_line_prints(tmp_path, target, tok, hyp, ref):
    (tmp_path / "hyp").write_text("\n".join(hyp) + "\n", encoding="utf-8")
    (tmp_path / "ref").write_text("\n".join(ref) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", str(tmp_path / "ref"), "-i", str(tmp_path / "hyp")]
    printed = subprocess.run(
        [*command, "-tok", tok, "-m", "bleu", "chrf", "-w", "6"], capture_output=True, text=True, check=True
    )
    command_line = {row["name"]: row for row in json.loads(printed.stdout)}
    ours = bleu(hyp, ref, target)
    assert round(ours.value, 6) == command_line["BLEU"]["score"]
    assert ours.signature == command_line["BLEU"]["signature"]
    assert round(chrf(hyp, ref).value, 6) == command_line["chrF2"]["score"]
    assert f"tok:{tok}" in ours.signature and f"{ours.value:.2f}" in str(ours)


def test_a_tokenizer_that_needs_spaces_is_refused_unless_forced():
    with pytest.raises(EvaluationError, match="ja-mecab"):
        bleu(JA_HYP, JA, "ja", tokenize="13a")
    with pytest.raises(EvaluationError, match="zh"):
        bleu(ZH_HYP, ZH, "zh", tokenize="none")
    assert bleu(ZH_HYP, ZH, "zh", tokenize="13a", force=True).value < 40 < bleu(ZH_HYP, ZH, "zh").value
    assert bleu(ZH_HYP, ZH, "zh", tokenize="char").signature != bleu(ZH_HYP, ZH, "zh").signature
    assert "tok:13a" in bleu(["a b c d e"], ["a b c d e"], "de").signature


@pytest.mark.parametrize(
    ("hyp", "ref"), [([], []), (["a"], ["a", "b"]), ("a", "a"), ([["a"]], ["a"]), (["a"], [None])]
)
def test_lists_that_do_not_pair_up_are_refused(hyp, ref):
    for score in (lambda: bleu(hyp, ref, "en"), lambda: chrf(hyp, ref), lambda: wer(hyp, ref)):
        with pytest.raises(EvaluationError):
            score()


def test_unknown_tokenizer_is_our_error():
    with pytest.raises(EvaluationError, match="tokenizer"):
        bleu(["a"], ["a"], "en", tokenize="nonsense")


@pytest.mark.parametrize(
    ("hyp", "ref", "expected"),
    [
        ("the cat sat", "The cat sat.", 0.0),
        ("the sat", "the cat sat", 100 / 3),
        ("the big cat sat", "the cat sat", 100 / 3),
        ("a dog sat", "the cat sat", 200 / 3),
        ("", "the cat sat", 100.0),
        ("it’s late — isn't it?", "it's late isn't it", 0.0),
        ("it costs 5", "It costs $5.", 0.0),
    ],
)
def test_word_error_rate_of_hand_counted_cases(hyp, ref, expected):
    assert wer([hyp], [ref]).value == pytest.approx(expected)


def test_error_rate_counts_characters_where_there_are_no_spaces_and_needs_a_word():
    score = wer(["今日は 良い天気です。"], ["今日は悪い天気です"], "ja")
    assert (score.name, score.value) == ("CER", pytest.approx(100 / 9))
    with pytest.raises(EvaluationError, match="nothing"):
        wer(["a"], ["…"])
    assert wer(["A."], ["a"], normalize=False).value == 100


words = st.lists(st.sampled_from("abc"), max_size=7)


@given(words, words, words)
def test_edit_distance_is_a_metric(x, y, z):
    assert edit_distance(x, x) == 0
    assert edit_distance(x, y) == edit_distance(y, x) >= abs(len(x) - len(y))
    assert edit_distance(x, z) <= edit_distance(x, y) + edit_distance(y, z)
    assert (edit_distance(x, y) == 0) == (x == y)


def test_token_accuracy_counts_targets_only_and_looks_one_ahead():
    labels = torch.tensor([[-100, 2, 3, -100], [-100, -100, 1, 0]])
    logits = torch.full((2, 4, 5), -1.0)
    for row, position, token in [(0, 0, 2), (0, 1, 4), (1, 1, 1), (1, 2, 0)]:
        logits[row, position, token] = 1.0
    targets = Targets(labels, 4)
    assert int(targets.score(take(logits, targets.where))[1]) == 3 and len(targets.ids) == 4


def test_paired_bootstrap_tells_a_real_difference_from_none():
    references = ZH * 20
    good, bad = references, [text[:4] for text in references]
    better = paired_bootstrap(bad, good, references, "zh", num_resamples=200)
    assert better.difference > 50
    assert better.p_value == pytest.approx(1 / 201)  # the test set itself counts, and no resample reaches it
    assert "tok:zh" in better.signature and "bs:200" in better.signature
    same = paired_bootstrap(good, good, references, "zh", num_resamples=200)
    assert same.p_value == 1 and same.difference == 0
    swapped = paired_bootstrap(good, bad, references, "zh", num_resamples=200)
    assert swapped.difference == -better.difference


def test_a_bootstrap_over_seeds_and_sentences_knows_both():
    """Sentences that are all alike leave the seeds' own bootstrap; one seed leaves that over sentences."""
    same = {"zh": [ZH[0]] * 7, "ja": [JA[0]] * 5}
    right, wrong = {"zh": ZH[0], "ja": JA[0]}, {"zh": ZH_HYP[0], "ja": JA_HYP[0]}
    runs = {
        code: ([[wrong[code]] * size] * 4, [[(wrong, right)[seed % 2][code]] * size for seed in range(4)])
        for code, size in (("zh", 7), ("ja", 5))
    }
    found = bootstrap_over_seeds(paired_hypotheses(runs, same), num_resamples=2000)
    gain = np.mean([100 - bleu([wrong[code]] * len(same[code]), same[code], code).value for code in same])
    assert found.difference == pytest.approx(gain / 2)
    rng = np.random.default_rng(0)
    draws = rng.choice([0.0, gain, 0.0, gain], size=(20_000, 4)).mean(1)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))

    one = {"zh": ([ZH_HYP], [ZH])}
    found = bootstrap_over_seeds(paired_hypotheses(one, {"zh": ZH}))
    assert found.difference == pytest.approx(100 - bleu(ZH_HYP, ZH, "zh").value)
    assert found.low < found.difference <= found.high
    back = bootstrap_over_seeds(paired_hypotheses({"zh": ([ZH], [ZH_HYP])}, {"zh": ZH}))
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))
    poor, right = ["a small dog ran home"], ["a small dog slept here"]  # no four words in common: smoothed
    found = bootstrap_over_seeds(paired_hypotheses({"en": ([poor], [right])}, {"en": right}), num_resamples=2)
    assert found.difference == pytest.approx(100 - bleu(poor, right, "en").value) and found.difference < 90
    with pytest.raises(EvaluationError, match="do not pair up"):
        paired_hypotheses({"zh": ([ZH, ZH], [ZH])}, {"zh": ZH})
    with pytest.raises(EvaluationError, match="do not pair up"):
        paired_hypotheses({"zh": ([ZH[:2]], [ZH])}, {"zh": ZH})


def test_groups_of_seeds_draw_for_themselves_and_count_by_their_seeds():
    """Losses of two groups: the interval over both is that of two independent means, weighted."""
    rng = np.random.default_rng(3)
    small, large = rng.normal(1.0, 1.0, (4, 90)), rng.normal(-0.5, 1.0, (8, 60))
    groups = [paired_losses([each]) for each in (small, large)]
    both = bootstrap_over_seeds(*groups, num_resamples=4000)
    assert both.difference == pytest.approx((4 * small.mean() + 8 * large.mean()) / 12)
    widths = []
    for group in groups:
        alone = bootstrap_over_seeds(group, num_resamples=4000)
        widths.append((alone.high - alone.low) * group.num_seeds / 12)
    assert both.high - both.low == pytest.approx(np.hypot(*widths), rel=0.08)
    for shape in ((1, 400), (400, 1)):  # sentences of one seed, or seeds of one sentence: a plain mean
        values = rng.normal(size=shape)
        found = bootstrap_over_seeds(paired_losses([values]), num_resamples=4000)
        assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.08)
    assert bootstrap_over_seeds(groups[0], seed=1) == bootstrap_over_seeds(groups[0], seed=1)
