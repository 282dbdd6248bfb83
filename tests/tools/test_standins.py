"""The stand-ins: trained in seconds at nano scale, loaded by the classes of the real ones."""

from __future__ import annotations

import json
import re
from itertools import pairwise, product
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, WhisperFeatureExtractor, WhisperModel

from aista.demo import corpus, grammar
from aista.errors import ConfigError, TrainingError
from aista.model.beats import BeatsModel
from tools import standins
from tools.standins import language_model, loop
from tools.standins.sounds import draw_sound

pytest.importorskip("espeakng_loader")
SCALE = corpus.Scale(whisper=12, whisper_dev=3, tagging=10)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("standins")
    corpus.build(folder / "corpus", SCALE, draw_sound=draw_sound, processes=1)
    for name in standins.NAMES:
        standins.train(name, folder / name, folder / "corpus", SCALE, nano=True)
    return folder


@pytest.mark.slow
def test_they_load_as_real_ones(built: Path) -> None:
    whisper = WhisperModel.from_pretrained(built / "whisper")
    extract = WhisperFeatureExtractor.from_pretrained(built / "whisper")
    assert extract.nb_max_frames == 2 * whisper.config.max_source_positions
    features = extract(
        np.zeros(16_000, dtype=np.float32), sampling_rate=16_000, return_tensors="pt"
    ).input_features
    states = whisper.encoder(features.to(whisper.dtype)).last_hidden_state
    assert states.shape[1] == 250 and torch.isfinite(states).all()
    tokens = AutoTokenizer.from_pretrained(built / "language_model")
    backbone = AutoModelForCausalLM.from_pretrained(built / "language_model")
    assert backbone.config.vocab_size == len(tokens) and type(backbone).__name__ == "Qwen2ForCausalLM"
    assert BeatsModel.from_pretrained(built / "beats").config.hidden_size == 32


@pytest.mark.slow
def test_a_finished_one_is_kept(built: Path) -> None:
    before = (built / "beats" / "model.safetensors").stat().st_mtime_ns
    card = standins.train("beats", built / "beats", built / "corpus", SCALE, nano=True)
    assert (built / "beats" / "model.safetensors").stat().st_mtime_ns == before and card["parameters"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", standins.NAMES)
def test_scores_go_into_the_card(built: Path, name: str) -> None:
    scores = standins.evaluate(name, built / name, built / "corpus", limit=3)
    card = json.loads((built / name / "card.json").read_text())
    assert card["scores"] == scores and card["bytes"] > 0


@pytest.mark.slow
def test_equal_seeds_give_equal_weights(tmp_path: Path) -> None:
    states = []
    for name in ("a", "b"):
        language_model.train(tmp_path / name, language_model.NANO)
        states.append(AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_irregular_sources_lose_no_word() -> None:
    rng = Random(0)
    for _ in range(200):
        noisy = language_model.irregular("The doctor bought a red book.", rng).lower().replace(" ", "")
        position = 0
        for character in "thedoctorboughtaredbook":
            position = noisy.find(character, position) + 1
            assert position, noisy


def test_no_held_out_pair_in_the_training_text() -> None:
    nouns = (*grammar.PERSONS, *grammar.THINGS)
    held_out = {
        (adjective.en, form)
        for adjective, noun in product(grammar.ADJECTIVES, nouns)
        if grammar.is_held_out((adjective.en, noun.en))
        for form in (noun.en, noun.plural)
    }
    recipe = language_model.NANO
    loose = {one.en for one in language_model.dictionary_lists(recipe.num_lists, recipe.seed)}
    for phase in (1, 2):
        texts = {example.answer for example in language_model.examples(recipe, phase)} - loose
        found = {pair for text in texts for pair in pairwise(re.findall(r"\w+|,", text.lower()))}
        assert len(found) > 500 and not held_out & found


def test_the_schedule() -> None:
    schedule = loop.Schedule(steps=100, batch_size=1, peak_learning_rate=1.0, warmup_steps=10)
    rates = [schedule.learning_rate(step) for step in range(100)]
    assert rates[0] == 0.1 and max(rates) == 1.0 == rates[9] and rates[-1] < 0.001
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="whisper, language_model, llama, beats"):
        standins.train("hubert", tmp_path, tmp_path, SCALE)
    layer = torch.nn.Linear(1, 1)
    with pytest.raises(TrainingError, match="not finite"):
        loop.fit(
            layer, [0], lambda _: layer(torch.ones(1, 1)).sum() * float("nan"),
            loop.Schedule(steps=1, batch_size=1, peak_learning_rate=1.0),
        )  # fmt: skip
