"""A folder of somebody else's speech LLM, its own processor included, from loading to an answer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoProcessor

from aista.errors import CheckpointError, ConfigError
from aista.speech_llm import Batcher, SpeechLM
from tests import tiny
from tests.baselines import tiny_systems
from tests.model.conftest import noise
from tests.speech_llm import folders

WAVES, TARGETS, TEXTS = noise(0.5, 1.4), ["Ja.", "Die Glocke."], ["Yes.", "The bell rings."]


OTHERS = ("qwen2_audio", "glm_asr")  # which the baselines need as well


@pytest.fixture(scope="module", params=[*OTHERS, *folders.KNOWN])
def speech_llm(request, tmp_path_factory) -> SpeechLM:
    name, folder = request.param, tmp_path_factory.mktemp("home") / "model"
    return SpeechLM.load(
        getattr(tiny_systems, name)(folder) if name in OTHERS else folders.saved(name, folder)
    )


def test_both_branches_of_two_clips(speech_llm: SpeechLM) -> None:
    batcher, tokenizer = speech_llm.batcher, speech_llm.processor.tokenizer
    speech = batcher.training(WAVES, ["Translate.", "Say it in Chinese."], TARGETS)
    placeholders = (speech.input_ids == speech_llm.model.config.audio_token_id).sum(1)
    assert 0 < placeholders[0] < placeholders[1] and torch.equal(placeholders, speech.span.sum(1))
    for row, target in enumerate(TARGETS):
        asked = speech.labels[row] != -100
        assert tokenizer.decode(speech.labels[row][asked], skip_special_tokens=True) == target
    text = batcher.written(speech, TEXTS)
    for row, transcript in enumerate(TEXTS):
        assert tokenizer.decode(text.input_ids[row][text.span[row]]) == transcript
        before = speech.input_ids[row][: int(speech.span[row].nonzero()[0])]
        assert torch.equal(text.input_ids[row][: len(before)], before)
    assert torch.isfinite(speech_llm.predict(speech).loss)
    states = speech_llm.states(speech, [0, 2]), speech_llm.text_states(text, [0, 2])
    assert all(side[2].shape[-1] == speech_llm.hidden_size for side in states)


def test_a_text_stands_where_the_sound_would(speech_llm: SpeechLM) -> None:
    """Within all that the processor itself puts around it: Music Flamingo's does."""
    batcher, wordings = speech_llm.batcher, ["Translate.", "Say it in Chinese."]
    clips = batcher.training(WAVES, wordings, TARGETS)
    wanted = batcher.written(clips, TEXTS, whole=True).rows()
    assert batcher.training(TEXTS, wordings, TARGETS).rows() == wanted
    mixed = batcher.training([WAVES[0], TEXTS[1]], wordings, TARGETS)
    assert mixed.heard == (0,) and mixed.rows() == [clips.rows()[0], wanted[1]]


def test_a_prompt_begins_once(tmp_path: Path) -> None:
    """Gemma's template writes the first token, and its tokenizer would add another."""
    processor = AutoProcessor.from_pretrained(tiny_systems.qwen2_audio(tmp_path / "model"))
    tokens = processor.tokenizer
    tokens.add_special_tokens({"bos_token": "<bos>"})
    bos = tokens.bos_token_id
    tokens._tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", bos)])
    config = SimpleNamespace(
        model_type="qwen2_audio", audio_token_id=tokens.convert_tokens_to_ids(tiny_systems.AUDIO)
    )
    for template in (folders.TEMPLATE, "{{ bos_token }}" + folders.TEMPLATE):
        processor.chat_template = template.replace("SOUND", tiny_systems.AUDIO)
        batcher = Batcher(processor, config)
        for contents in (WAVES, TEXTS, [WAVES[0], TEXTS[1]]):
            rows = batcher.training(contents, ["Translate."] * 2, TARGETS).rows()
            assert [row.prompt[0] for row in rows] == [bos] * 2
            assert [row.prompt.count(bos) for row in rows] == [1] * 2


def test_a_batch_answers_as_its_rows_do(speech_llm: SpeechLM) -> None:
    wordings = ["Translate.", "Say it in Chinese."]
    options = {"max_new_tokens": 5, "do_sample": False}
    together = speech_llm.generate(speech_llm.batcher.translation(WAVES, wordings), **options)
    for row in range(2):
        one = speech_llm.batcher.translation(WAVES[row : row + 1], wordings[row : row + 1])
        alone = speech_llm.generate(one, **options)[0]
        assert together[row, : len(alone)].tolist() == alone.tolist()


def test_a_processor_that_lacks_a_package_is_told_before_weights_load(tmp_path: Path, monkeypatch) -> None:
    def lacking(*_: object, **__: object) -> None:
        raise ImportError("\nTheProcessor requires the Torchvision library. Check the\ninstructions.")

    folder = tiny_systems.qwen2_audio(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", lacking)
    with pytest.raises(CheckpointError, match=r"requires the Torchvision library\n"):
        SpeechLM.load(folder)


def test_a_model_that_was_saved_without_its_processor_says_how_to_add_it(tmp_path: Path) -> None:
    folder = tiny_systems.qwen2_audio(tmp_path / "model")
    for file in (*folder.glob("*token*"), *folder.glob("*processor*")):
        file.unlink()
    with pytest.raises(CheckpointError, match=r"AutoProcessor\.from_pretrained\(BASE\)"):
        SpeechLM.load(folder)


def test_an_adapter_of_peft_alone_says_how_to_merge_it(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(CheckpointError, match="merge_and_unload"):
        SpeechLM.load(tmp_path)


def test_bases_are_moved_in_models_of_ours_alone(tmp_path: Path) -> None:
    folder = tiny_systems.glm_asr(tmp_path / "model")
    with pytest.raises(ConfigError, match="no bases"):
        SpeechLM.load(folder, replace_bases={"backbone": "elsewhere"})


def test_what_is_no_speech_llm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no placeholder"):
        SpeechLM.load(tiny.language_model(tmp_path / "lm"))
    with pytest.raises(ConfigError, match="no placeholder"):
        SpeechLM.load(tiny.whisper(tmp_path / "whisper"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no model"):
        SpeechLM.load(tmp_path / "empty")


@pytest.mark.slow
def test_the_loop_of_the_guide(tmp_path: Path, monkeypatch) -> None:
    guide = Path(__file__).parents[2] / "docs" / "guides" / "any-speech-llm.md"
    section = guide.read_text(encoding="utf-8").split("## In a training loop of yours")[1]
    loop = section.split("```python\n")[1].split("```")[0].replace("[0, 4, 8]", "[0, 2]")
    folder = tiny_systems.qwen2_audio(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    names = {"batches": [(WAVES, ["Translate."] * 2, TARGETS, TEXTS)] * 3}
    exec(loop.replace("Qwen/Qwen2-Audio-7B-Instruct", str(folder)), names)
    trained = names["speech_llm"].keeper.trainable_state_dict()
    again = SpeechLM.load(tmp_path / "aligned").keeper.trainable_state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in trained.items())
    assert any("lora_B" in name and tensor.any() for name, tensor in trained.items())


@pytest.mark.slow
def test_adapters_of_peft_as_the_guide_has_them(tmp_path: Path, monkeypatch) -> None:
    guide = Path(__file__).parents[2] / "docs" / "guides" / "any-speech-llm.md"
    section = guide.read_text(encoding="utf-8").split("## In a training loop of yours")[1]
    before, after = section.split("```python\n")[2].split("```")[0].split("...  # the steps")
    folder = tiny_systems.qwen2_audio(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    names = {"SpeechLM": SpeechLM}
    exec(before.replace("Qwen/Qwen2-Audio-7B-Instruct", str(folder)), names)
    speech_llm = names["speech_llm"]
    trained = {name: p for name, p in speech_llm.model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 2 * 2 and all(".language_model." in name for name in trained)
    batch = speech_llm.batcher.training(WAVES, ["Translate."] * 2, TARGETS)
    untrained = speech_llm.predict(batch).loss
    optimizer = torch.optim.AdamW(trained.values(), lr=0.1)
    for _ in range(2):
        speech_llm.predict(batch).loss.backward()
        optimizer.step()
    speech_llm.model.eval()
    loss = speech_llm.predict(batch).loss
    assert loss < untrained
    exec("# the steps" + after, names)
    again = SpeechLM.load(tmp_path / "tuned")
    torch.testing.assert_close(again.predict(batch).loss, loss, atol=1e-4, rtol=1e-4)
