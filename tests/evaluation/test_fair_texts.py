"""Equal words score as equal, whatever characters they are typed with; what is not scored is counted."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aista.errors import EvaluationError
from aista.evaluation.metrics import bleu, chrf, wer
from aista.evaluation.significance import paired_bootstrap
from aista.text.normalize import is_blank, without_invisible

SENTENCES = ["The old ferry didn't leave the harbour before noon.", "Nobody's umbrella was dry that week."]
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u202a\u202c\u061c\u180e\ufe0f\u034f\x00\x08"
APOSTROPHES = "'\u2019\u2018\u02bc\u02bb\u02b9\u2032\uff07\u00b4`\u201b\ua78c\u055a\u05f3\uff40"


@pytest.mark.parametrize("mark", INVISIBLE)
def test_what_nobody_sees_costs_no_words(mark):
    sprinkled = [mark.join(text) for text in SENTENCES]
    assert wer(sprinkled, SENTENCES).value == 0 == wer(SENTENCES, sprinkled).value
    assert wer(sprinkled, SENTENCES, normalize=False).value == 0
    assert wer([mark + "今日は" + mark], ["今日は"], "ja").value == 0
    assert is_blank(f" {mark}\u3000\u00a0") and without_invisible(f"a{mark} b") == "a b"


@pytest.mark.parametrize("mark", APOSTROPHES)
def test_every_apostrophe_is_one(mark):
    assert wer([text.replace("'", mark) for text in SENTENCES], SENTENCES).value == 0
    assert wer([f"{mark}Quoted{mark} don{mark}t"], ["Quoted don't."]).value == 0
    assert wer(["dont"], [f"don{mark}t"]).value == 100  # it is still a letter of the word
    assert wer(["\u0149 boot"], [f"{mark}n boot"]).value == 0  # NFKC makes an apostrophe and an n of it


@pytest.mark.parametrize(
    ("capitals", "small", "code"),
    [
        ("ISPARTA'DA IŞIK VE İZMİR'DE İNCİR", "Isparta'da ışık ve İzmir'de incir", "tr"),
        ("I\u0307STANBUL", "istanbul", "tr"),
        ("DIE STRASSE", "die Straße", "de"),
        ("IJSBEER", "ĳsbeer", "nl"),
        ("ÉTÉ À NOËL", "été à noël", "fr"),
    ],
)
def test_capitals_are_lowered_as_the_language_has_it(capitals, small, code):
    assert wer([capitals], [small], code).value == 0 == wer([small], [capitals], code).value


def test_a_dotless_i_is_another_letter_in_turkish_alone():
    assert wer(["ILIK"], ["ilik"], "tr").value == 100  # lukewarm, not marrow
    assert wer(["ILIK"], ["ilik"], "en").value == 0


@pytest.mark.parametrize("blank", ["", "  ", "\n", "\u3000", "\u200b", "\ufeff \u00ad"])
def test_a_blank_reference_is_left_out_and_the_number_scored_says_so(blank):
    hypotheses, references = [*SENTENCES, "Something was said."], [*SENTENCES, blank]
    for score in (
        bleu(hypotheses, references, "en"),
        chrf(hypotheses, references),
        wer(hypotheses, references),
    ):
        assert score.num_segments == 2 and score.value == (0 if score.name == "WER" else pytest.approx(100))
    assert bleu(["", SENTENCES[0]], SENTENCES, "en").num_segments == 2  # an empty answer is scored
    assert wer(["a b", "Well"], ["...", "well"]).num_segments == 1
    for alone in (
        lambda: bleu(["a"], [blank], "en"),
        lambda: chrf(["a"], [blank]),
        lambda: wer(["a"], [blank]),
    ):
        with pytest.raises(EvaluationError, match="nothing"):
            alone()
    compared = paired_bootstrap(hypotheses, hypotheses, references, "en", num_resamples=20)
    assert compared.num_segments == 2 and compared.base == pytest.approx(100)


# ---- significance ----

WORDS = ["red", "blue", "old", "new", "ship", "lake", "bird", "tree", "road", "cold", "warm", "long", "wind"]


def _systems(rng: random.Random, size: int = 60, noise: tuple[float, float] = (0.3, 0.3)):
    """Return two systems' outputs that miss words with the given probabilities, and the references."""
    references = [" ".join(rng.choices(WORDS, k=rng.randint(5, 12))) for _ in range(size)]
    outputs = [
        [" ".join(w if rng.random() > p else rng.choice(WORDS) for w in row.split()) for row in references]
        for p in noise
    ]
    return *outputs, references


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: text + " ",
        lambda text: text + "\n",
        lambda text: "  " + text.replace(" ", "  "),
    ],
)
def test_systems_that_differ_by_nothing_have_p_one(change):
    base, _, references = _systems(random.Random(1))
    found = paired_bootstrap(base, [change(text) for text in base], references, "en", num_resamples=100)
    assert found.difference == 0 and found.p_value == 1
    assert paired_bootstrap(base[:1], [change(base[0])], references[:1], "en", num_resamples=50).p_value == 1


def test_one_changed_blank_among_real_differences_changes_no_p():
    base, system, references = _systems(random.Random(2))
    blanks = [system[0] + " ", *system[1:]]
    one, other = (paired_bootstrap(base, x, references, "en", num_resamples=200) for x in (system, blanks))
    assert one == other


@pytest.mark.slow
def test_systems_that_differ_by_chance_have_uniform_p():
    rng = random.Random(3)
    found = np.array(
        [paired_bootstrap(*_systems(rng, 40), "en", num_resamples=100).p_value for _ in range(100)]
    )
    grid = np.linspace(0.05, 0.95, 10)
    shares = (found[:, None] <= grid).mean(0)
    assert np.abs(shares - grid).max() < 0.17  # Kolmogorov-Smirnov at 0.5 % for 100 draws
    assert (found < 0.05).mean() < 0.12


def test_a_real_difference_is_found_in_both_directions():
    base, system, references = _systems(random.Random(4), noise=(0.5, 0.2))
    ahead, behind = (
        paired_bootstrap(base, system, references, "en"),
        paired_bootstrap(system, base, references, "en"),
    )
    assert ahead.p_value == behind.p_value < 0.01 and ahead.difference == -behind.difference > 0
    widths = ahead.base_half_width, ahead.system_half_width
    assert widths == (behind.system_half_width, behind.base_half_width) and widths[0] != widths[1]


def test_a_few_segments_prove_nothing():
    right, wrong = ["the ship left the cold lake"], ["a bird sat in the old tree"]
    assert paired_bootstrap(wrong, right, right, "en", num_resamples=200).p_value == 1
    for size in (2, 4):
        found = paired_bootstrap(wrong * size, right * size, right * size, "en", num_resamples=200)
        assert found.p_value >= 2.0 ** (1 - size)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12))
def test_p_is_a_probability_and_symmetric(seed, size):
    base, system, references = _systems(random.Random(seed), size)
    one = paired_bootstrap(base, system, references, "en", num_resamples=50)
    other = paired_bootstrap(system, base, references, "en", num_resamples=50)
    assert 0 < one.p_value <= 1 and one.p_value == other.p_value
