"""From audio and text to inputs: where everything stands, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from aista.errors import CheckpointError, ConfigError, ModelInputError
from aista.model import AistaProcessor
from aista.text.prompts import render
from tests.model.conftest import noise

WAVES = noise(0.4, 1.3)


@pytest.fixture(scope="module")
def processor(pair) -> AistaProcessor:
    return pair[1]


def test_a_row_reads_prefix_speech_suffix_target_end(processor):
    batch = processor(WAVES, "Translate.", ["Ja.", "Die Glocke."])
    prompt, tokenizer = render("chatml", "Translate."), processor.tokenizer
    for row, target in enumerate(["Ja.", "Die Glocke."]):
        ids, real = batch["input_ids"][row], batch["attention_mask"][row].bool()
        speech = batch["speech_mask"][row]
        before, after = speech.nonzero()[0].item(), speech.nonzero()[-1].item() + 1
        assert tokenizer.decode(ids[:before]) == prompt.prefix
        assert tokenizer.decode(ids[after:][real[after:]]) == prompt.suffix + target + prompt.end
        asked = batch["labels"][row] != -100
        assert tokenizer.decode(ids[asked]) == target + prompt.end
        assert torch.equal(ids[asked], batch["labels"][row][asked])
        assert after - before == int(speech.sum()) == -(-len(WAVES[row]) // 5440)


def test_sides(processor):
    right = processor(WAVES, ["a", "bbbb"], ["x", "yy"])
    assert right["attention_mask"][:, 0].all() and not right["attention_mask"][:, -1].all()
    left = processor(WAVES, ["a", "bbbb"])
    assert left["attention_mask"][:, -1].all() and "labels" not in left
    between = processor(WAVES, ["a", "bbbb"], ["x", "yy"], padding_side="between")
    starts = [(row != -100).nonzero()[0].item() for row in between["labels"]]
    assert starts[0] == starts[1] and between["speech_mask"].shape == between["input_ids"].shape
    for batch in (left, between):
        assert torch.equal(batch["speech_mask"].sum(1), right["speech_mask"].sum(1))
    with pytest.raises(ModelInputError, match="padding_side"):
        processor(WAVES, "a", padding_side="middle")


def test_the_text_branch_is_the_prefix_and_the_transcript(processor):
    batch = processor(WAVES, "Translate.", ["x", "y"], transcripts=["Yes.", "The bell rings."])
    tokenizer, prompt = processor.tokenizer, render("chatml", "Translate.")
    for row, text in enumerate(["Yes.", "The bell rings."]):
        ids, inside = batch["transcript_input_ids"][row], batch["transcript_mask"][row]
        assert tokenizer.decode(ids[inside]) == text
        real = batch["transcript_attention_mask"][row].bool()
        assert tokenizer.decode(ids[real]) == prompt.prefix + text


def test_text_may_stand_where_speech_would(processor):
    batch = processor(source_text=["Hello."], text="Translate.")
    assert not batch["speech_mask"].any() and "input_features" not in batch
    text = processor.tokenizer.decode(batch["input_ids"][0])
    prompt = render("chatml", "Translate.")
    assert text == prompt.prefix + "Hello." + prompt.suffix


def test_the_standard_instruction_is_asked_for_by_task_and_language(processor):
    ids = processor(WAVES[:1], task="st", language="zh")["input_ids"][0]
    assert "Chinese" in processor.tokenizer.decode(ids)
    with pytest.raises(ConfigError, match=r"(?i)language"):
        processor(WAVES[:1], task="st", language="xx")
    with pytest.raises(ConfigError, match="task"):
        processor(WAVES[:1], task="dance", language="zh")


def test_answers_are_cut_end_included(processor):
    batch = processor(WAVES[:1], "a", ["abcdef"], max_target_tokens=3)
    asked = batch["labels"][0] != -100
    assert processor.tokenizer.decode(batch["labels"][0][asked]) == "abc"


def test_the_mel_follows_the_encoder(pair, processor):
    """Whatever length the folder's extractor pads to, the encoder gets its own."""
    mel = processor(WAVES, "a")["input_features"]
    assert mel.shape == (2, 80, 2 * pair[0].config.speech_config.max_source_positions)
    longest = processor([np.zeros(processor.config.max_samples, np.float32)], "a")
    assert longest["speech_mask"].sum() == processor.config.max_windows


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros(0, np.float32), "empty"),
        (np.array([0.0, np.nan], np.float32), "NaN"),
        (np.array([0.0, np.inf], np.float32), "not finite"),
        (np.zeros((2, 8000), np.float32), "mono"),
        (np.zeros(8000, np.int16), "floating point"),
        (np.zeros(16_000 * 31, np.float32), "longer than the speech encoder"),
    ],
)
def test_bad_audio_is_named(processor, audio, message):
    with pytest.raises(ModelInputError, match=message) as error:
        processor([WAVES[0], audio], "a")
    assert "Item 1" in str(error.value)


def test_bad_calls_are_named(processor):
    with pytest.raises(ModelInputError, match="sample rate"):
        processor(WAVES, "a", sampling_rate=8000)
    for arguments in ({"text": "a"}, {"audio": [], "text": "a"}, {"audio": WAVES, "source_text": ["a", "b"]}):
        with pytest.raises(ModelInputError, match="Exactly one thing"):
            processor(**arguments)
    with pytest.raises(ModelInputError, match="3 targets for a batch of 2"):
        processor(WAVES, "a", ["x", "y", "z"])
    with pytest.raises(ModelInputError, match="need num_samples"):
        processor(features=[np.zeros((17, 32))], text="a")
    with pytest.raises(ModelInputError, match="do not fit"):
        processor(features=[np.zeros((5, 32))], num_samples=[16_000], text="a")
    with pytest.raises(ConfigError, match="slot inside"):
        processor(WAVES, "Please <Speech> translate")


def test_saved_and_loaded_it_does_the_same(pair, tmp_path):
    model, processor = pair
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    wanted = processor(WAVES, "Go.", ["x", "y"])
    for again in (AistaProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert isinstance(again, AistaProcessor)
        found = again(WAVES, "Go.", ["x", "y"])
        assert found.keys() == wanted.keys()
        tensors = [name for name in wanted if isinstance(wanted[name], torch.Tensor)]
        assert "labels" in tensors and all(torch.equal(found[name], wanted[name]) for name in tensors)
    with pytest.raises(CheckpointError, match="no saved model"):
        AistaProcessor.from_pretrained(tmp_path.parent)
