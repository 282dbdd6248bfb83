"""The losses of the experiment are those that the model gives, sentence by sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from aista.data.dataset import Collator, SpeechDataset
from aista.data.manifest import Manifest
from aista.errors import ConfigError
from aista.speech_llm import SpeechLM
from aista.training.stages import fresh_model
from tests import tiny
from tools.zero_shot_base import cross_entropies, main


def test_a_loss_is_that_of_its_sentence_alone(tmp_path: Path) -> None:
    settings = tiny.pretrain_settings(tmp_path)
    assert settings.model is not None
    model, processor = fresh_model(settings.model, 0)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    data = tiny.texts(tmp_path / "texts.jsonl")
    losses = cross_entropies(tmp_path / "model", str(data), "float32", batch=4)
    speech_llm = SpeechLM(model, processor)
    dataset, collator = SpeechDataset([Manifest(data)]), Collator(speech_llm.batcher)
    for place, row in enumerate(dataset.utterances()):
        alone = speech_llm.predict(collator([dataset[place]])["speech"]).loss.detach()
        assert losses[row.id] == pytest.approx(float(alone), rel=1e-4)
    assert len(losses) == len(dataset) == 6


def test_right_transcripts_do_not_pass_for_the_control() -> None:
    with pytest.raises(ConfigError, match="no shuffled transcripts"):
        main(["run", "--systems", "base", "shuffled", "--pairs", "200"])
