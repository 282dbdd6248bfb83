"""From audio and text to inputs: where everything stands, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor

from aista.errors import CheckpointError, ConfigError, ModelInputError
from aista.model import AistaProcessor
from aista.model.processing import NAMES as SOUND
from aista.speech_llm import Batcher
from aista.text.prompts import instruction, render
from tests.model.conftest import noise

WAVES = noise(0.4, 1.3)


@pytest.fixture(scope="module")
def processor(pair) -> AistaProcessor:
    return pair[1]


@pytest.fixture(scope="module")
def batcher(processor) -> Batcher:
    return Batcher(processor, processor.config)


def test_one_call_with_text_and_audio_expands_the_placeholder(pair):
    """The contract of transformers' audio processors, and of their models."""
    model, processor = pair
    request = [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "Translate."}]}]
    text = processor.apply_chat_template(request, add_generation_prompt=True, tokenize=False)
    assert text.count(processor.audio_token) == 1
    inputs = processor(text=[text, text], audio=WAVES, return_tensors="pt", padding=True)
    placeholders = inputs["input_ids"] == model.config.audio_token_id
    assert placeholders.sum(1).tolist() == [-(-len(wave) // 5440) for wave in WAVES]
    features = model.get_audio_features(**{k: v for k, v in inputs.items() if k in SOUND})
    assert features.pooler_output.shape == (int(placeholders.sum()), 32)
    assert model.get_decoder().layers is model.backbone.model.layers
    found = model.generate(**inputs, max_new_tokens=3)
    assert torch.equal(found[:, : placeholders.shape[1]], inputs["input_ids"])
    texts = processor.batch_decode(found[:, placeholders.shape[1] :])
    assert len(texts) == 2 and all(isinstance(line, str) for line in texts)
    right = processor(text=[text, text], audio=WAVES, padding_side="right")
    assert right["attention_mask"][:, 0].all() and not right["attention_mask"][:, -1].all()


def test_a_prompt_holds_the_speech_once(pair):
    processor = pair[1]
    for text in ("no speech at all", processor.audio_token * 2):
        with pytest.raises(ModelInputError, match="exactly once"):
            processor(text=text, audio=WAVES[:1])
    with pytest.raises(ModelInputError, match="2 prompts for 1 recordings"):
        processor(text=["a" + processor.audio_token] * 2, audio=WAVES[:1])
    with pytest.raises(ModelInputError, match="one recording and one instruction"):
        processor.apply_chat_template([{"role": "user", "content": "Hello."}])


def test_a_row_reads_prefix_speech_suffix_target_end(processor, batcher):
    batch = batcher.training(WAVES, ["Translate."] * 2, ["Ja.", "Die Glocke."])
    prompt, tokenizer = render("chatml", "Translate."), processor.tokenizer
    for row, target in enumerate(["Ja.", "Die Glocke."]):
        ids, real = batch.input_ids[row], batch.attention_mask[row].bool()
        speech = ids == processor.config.audio_token_id
        assert torch.equal(speech, batch.span[row])
        before, after = speech.nonzero()[0].item(), speech.nonzero()[-1].item() + 1
        assert tokenizer.decode(ids[:before]) == prompt.prefix
        assert tokenizer.decode(ids[after:][real[after:]]) == prompt.suffix + target + prompt.end
        asked = batch.labels[row] != -100
        assert tokenizer.decode(ids[asked]) == target + prompt.end
        assert torch.equal(ids[asked], batch.labels[row][asked])
        assert after - before == int(speech.sum()) == -(-len(WAVES[row]) // 5440)


def test_sides(batcher):
    right = batcher.training(WAVES, ["a", "bbbb"], ["x", "yy"])
    assert right.attention_mask[:, 0].all() and not right.attention_mask[:, -1].all()
    left = batcher.translation(WAVES, ["a", "bbbb"])
    assert left.attention_mask[:, -1].all() and left.labels is None
    between = batcher.training(WAVES, ["a", "bbbb"], ["x", "yy"], padding_side="between")
    starts = [(row != -100).nonzero()[0].item() for row in between.labels]
    assert starts[0] == starts[1] and between.span.shape == between.input_ids.shape
    for batch in (left, between):
        assert torch.equal(batch.span.sum(1), right.span.sum(1))
    with pytest.raises(ModelInputError, match="padding_side"):
        batcher.translation(WAVES, ["a"] * 2, padding_side="middle")


def test_the_text_branch_is_the_prefix_and_the_transcript(processor, batcher):
    speech = batcher.training(WAVES, ["Translate."] * 2, ["x", "y"])
    batch = batcher.written(speech, ["Yes.", "The bell rings."])
    tokenizer, prompt = processor.tokenizer, render("chatml", "Translate.")
    for row, text in enumerate(["Yes.", "The bell rings."]):
        ids, inside = batch.input_ids[row], batch.span[row]
        assert tokenizer.decode(ids[inside]) == text
        real = batch.attention_mask[row].bool()
        assert tokenizer.decode(ids[real]) == prompt.prefix + text


def test_short_sound_is_a_second_for_beats(processor):
    """Frames of 25 ms every 10 ms: SALMONN adds silence."""
    audio = processor.audio_inputs(noise(0.4))
    assert audio.fbank.shape[1] == int(audio.fbank_mask.sum()) == 98 and audio.num_samples == (6_400,)


@pytest.mark.parametrize(("frames", "more"), [(0, 0), (5, 0), (18, 0), (17, 1)])
def test_features_that_are_no_whole_windows_of_these_encoders_are_refused(processor, frames, more):
    dim = processor.config.feature_dim
    assert processor.audio_inputs([np.zeros((34, dim), np.float32)]).num_samples == (34 * 320,)
    with pytest.raises(ModelInputError, match="do not fit the model"):
        processor.audio_inputs([np.zeros((frames, dim + more), np.float32)])


def test_text_may_stand_where_speech_would(processor, batcher):
    batch = batcher.translation(["Hello."], ["Translate."])
    assert not (batch.input_ids == processor.config.audio_token_id).any() and not batch.sound
    text = processor.tokenizer.decode(batch.input_ids[0])
    prompt = render("chatml", "Translate.")
    assert text == prompt.prefix + "Hello." + prompt.suffix


def test_the_standard_instruction_is_asked_for_by_task_and_language(processor, batcher):
    ids = batcher.translation(WAVES[:1], [instruction("st", "zh")]).input_ids[0]
    assert "Chinese" in processor.tokenizer.decode(ids)
    with pytest.raises(ConfigError, match=r"(?i)language"):
        batcher.translation(WAVES[:1], [instruction("st", "xx")])
    with pytest.raises(ConfigError, match="task"):
        batcher.translation(WAVES[:1], [instruction("dance", "zh")])


def test_answers_are_cut_end_included(processor, batcher):
    batch = batcher.training(WAVES[:1], ["a"], ["abcdef"], max_target_tokens=3)
    asked = batch.labels[0] != -100
    assert processor.tokenizer.decode(batch.labels[0][asked]) == "abc"


def test_the_mel_follows_the_encoder(pair, processor, batcher):
    """Whatever length the folder's extractor pads to, the encoder gets its own."""
    mel = processor.audio_inputs(WAVES).input_features
    assert mel.shape == (2, 80, 2 * pair[0].config.speech_config.max_source_positions)
    longest = batcher.translation([np.zeros(processor.config.max_samples, np.float32)], ["a"])
    assert longest.span.sum() == processor.config.max_windows


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros(0, np.float32), "empty"),
        (np.array([0.0, np.nan], np.float32), "NaN"),
        (np.array([0.0, np.inf], np.float32), "not finite"),
        (np.zeros((2, 8000), np.float32), "mono"),
        (np.zeros(8000, np.int16), "floating point"),
        (np.zeros(16_000 * 31, np.float32), "longer than the model hears"),
    ],
)
def test_bad_audio_is_named(batcher, audio, message):
    with pytest.raises(ModelInputError, match=message) as error:
        batcher.translation([WAVES[0], audio], ["a"] * 2)
    assert "Item 1" in str(error.value)


def test_bad_calls_are_named(processor, batcher):
    with pytest.raises(ModelInputError, match="sample rate"):
        processor(text="a" + processor.audio_token, audio=WAVES[:1], sampling_rate=8000)
    with pytest.raises(ModelInputError, match="empty batch"):
        batcher.translation([], [])
    with pytest.raises(ModelInputError, match="3 targets for a batch of 2"):
        batcher.training(WAVES, ["a"] * 2, ["x", "y", "z"])
    for features in (np.zeros((5, 32)), np.zeros((17, 31)), np.zeros((0, 32))):
        with pytest.raises(ModelInputError, match="do not fit"):
            batcher.translation([features], ["a"])
    with pytest.raises(ConfigError, match="slot inside"):
        batcher.translation(WAVES, ["Please <Speech> translate"] * 2)
    with pytest.raises(ModelInputError, match="padded torch tensors"):
        processor(text="a", return_tensors="np")


def test_saved_and_loaded_it_does_the_same(pair, tmp_path):
    model, processor = pair
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    text = [f"Go. {processor.audio_token}", f"{processor.audio_token} now"]
    wanted = processor(text, WAVES)
    for again in (AistaProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert isinstance(again, AistaProcessor)
        found = again(text, WAVES)
        assert found.keys() == wanted.keys()
        tensors = [name for name in wanted if isinstance(wanted[name], torch.Tensor)]
        assert "input_features" in tensors and all(torch.equal(found[name], wanted[name]) for name in tensors)
    with pytest.raises(CheckpointError, match="no saved model"):
        AistaProcessor.from_pretrained(tmp_path.parent)


CONTROL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|pad|>", "<|audio_bos|>", "<|audio_eos|>"]


@given(st.data())
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_text_from_data_never_becomes_a_control_token(pair, data):
    """Transcript, source text, instruction and target alike; what is read back is what was written."""
    _, processor = pair
    batcher, tokenizer = Batcher(processor, processor.config), processor.tokenizer
    special = {tokenizer.convert_tokens_to_ids(token) for token in CONTROL} | set(tokenizer.all_special_ids)
    special.add(processor.config.audio_token_id)
    pieces = st.sampled_from([*CONTROL, processor.audio_token, "user\n", "a", " ", "好", "<|", "|>"])
    text, asked, target = (
        "x" + "".join(data.draw(st.lists(pieces, min_size=1, max_size=5))) + "x" for _ in range(3)
    )

    def controls(batch):
        return [number for number in batch.input_ids[0].tolist() if number in special]

    for contents, plain in (([text], ["x"]), (noise(0.4), noise(0.4))):
        batch, clean = batcher.training(contents, [asked], [target]), batcher.training(plain, ["x"], ["x"])
        assert controls(batch) == controls(clean)
        assert tokenizer.decode(batch.labels[0][batch.labels[0] != -100][:-1]) == target
    written, other = batcher.written(batch, [text]), batcher.written(clean, ["x"])
    assert controls(written) == controls(other)
