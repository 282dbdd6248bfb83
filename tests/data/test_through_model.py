"""One batch of every corpus, prepared from its true layout, goes through a model and gives a gradient."""

from __future__ import annotations

import pytest
import torch

from aista.data.collate import Collator, SpeechDataset
from aista.data.corpora import names
from aista.data.manifest import Manifest
from aista.data.prepare import prepare
from aista.model import AistaForConditionalGeneration, AistaProcessor
from tests.data import miniatures
from tests.tiny import language_model, whisper

OPTIONS = {"covost2": {"direction": "en-ja"}}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return AistaForConditionalGeneration.from_bases(
        speech_encoder=str(whisper(folder / "whisper", positions=119)),
        backbone=str(language_model(folder / "lm")),
        qformer={"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24},
        seed=0,
    )


@pytest.mark.parametrize("name", names())
def test_a_batch_of_every_corpus_trains(tmp_path, model, name):
    miniatures.ALL[name](tmp_path / "source")
    reports = prepare(name, tmp_path / "source", tmp_path / "out", **OPTIONS.get(name, {}))
    dataset = SpeechDataset([Manifest(report.manifest) for report in reports])
    collator = Collator(AistaProcessor.from_config(model.config), prompt_pool=True)
    batch = collator([dataset[i] for i in range(min(4, len(dataset)))])
    batch.pop("ids")
    loss = model(**batch).loss
    loss.backward()
    assert torch.isfinite(loss) and loss > 0
    gradients = [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)
    model.zero_grad()
