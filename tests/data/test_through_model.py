"""One batch of every corpus, prepared from its true layout, goes through a model and gives a gradient."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from aista.cli.data import app
from aista.config import JointSettings, PretrainSettings
from aista.data.corpora import names, prepare
from aista.data.dataset import Collator, SpeechDataset
from aista.data.manifest import Manifest, TimedText, write_manifest
from aista.data.rearrange import write_shards
from aista.model import AistaForConditionalGeneration, AistaProcessor
from aista.speech_llm import SpeechLM
from aista.training.stages import Interrupted, joint, pretrain
from tests import tiny
from tests.data import miniatures
from tests.tiny import language_model, whisper
from tests.training.interrupting import interrupted_after

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
    speech_llm = SpeechLM(model, AistaProcessor.from_config(model.config))
    collator = Collator(speech_llm.batcher, prompt_pool=True)
    batch = collator([dataset[i] for i in range(min(4, len(dataset)))])["speech"]
    loss = speech_llm.predict(batch).loss
    loss.backward()
    assert torch.isfinite(loss) and loss > 0
    gradients = [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)
    model.zero_grad()


@pytest.mark.slow
def test_training_on_shards_and_long_rows_resumes_exactly(tmp_path, monkeypatch, capsys):
    """From tars, with a row cut in two: interrupted in the middle of an epoch = uninterrupted."""
    manifest = Manifest(tiny.manifest(tmp_path / "asr.jsonl", task="asr"))
    rows = list(manifest)
    parts = [{"offset": at, "duration": 0.8, "text": "A bell."} for at in (0.0, 0.9)]
    rows[-1] = rows[-1].model_copy(update={"segments": tuple(TimedText(**part) for part in parts)})
    write_manifest(tmp_path / "asr.jsonl", rows)
    write_shards(Manifest(tmp_path / "asr.jsonl"), tmp_path / "shards", rows_per_shard=5)
    base = tiny.pretrain_settings(tmp_path, max_steps=6, save_steps=1).model_dump()
    base["data"] |= {
        "train": [str(tmp_path / "shards" / "asr.jsonl")],
        "max_seconds": 1.7,
        "too_long": "segment",
    }

    def settings(name: str) -> PretrainSettings:
        return PretrainSettings.of({**base, "output": str(tmp_path / name)})

    whole = pretrain(settings("whole"))
    assert "is padding" in " ".join(capsys.readouterr().err.split())
    with monkeypatch.context() as patch:
        interrupted_after(3, patch)
        with pytest.raises(Interrupted):
            pretrain(settings("parts"))
    resumed = pretrain(settings("parts"))
    told = json.loads((whole.folder / "training.json").read_text())["training_data"]
    assert told["rows"] == 13 and told["too_long"]["segmented"] == 1 and told["corrupt"] == 0
    one, other = (load_file(run.folder / "model.safetensors") for run in (whole, resumed))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_joint_trains_on_what_data_shard_writes(tmp_path):
    """The command's own output, named as training data like any manifest."""
    stage1 = pretrain(tiny.pretrain_settings(tmp_path, max_steps=1)).folder
    plain = tiny.joint_settings(tmp_path, str(stage1))
    command = ["shard", *plain.data.train, "--out", str(tmp_path / "shards"), "--rows", "5"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert [path.name for path in sorted((tmp_path / "shards").glob("*.tar"))] == [
        f"st-{number:06d}.tar" for number in range(3)
    ]
    values = plain.model_dump()
    values["data"]["train"] = [str(tmp_path / "shards" / "st.jsonl")]
    run = joint(JointSettings.of(values))
    told = json.loads((run.folder / "training.json").read_text())["training_data"]
    assert told["rows"] == 12 and told["corrupt"] == 0
    losses = [row["loss"] for row in json.loads((run.folder / "history.json").read_text()) if "loss" in row]
    assert len(losses) == 4 and all(0 < loss < 100 for loss in losses)
