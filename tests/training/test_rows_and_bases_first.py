"""What cannot be trained on, or with, is told before the first step; a late fault loses nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    SiglipVisionConfig,
)  # fmt: skip

from aista.data.dataset import Collator, SpeechDataset
from aista.data.manifest import Manifest, write_manifest
from aista.data.sampling import LengthGroupedSampler
from aista.errors import AudioError, CheckpointError, CorruptDataError, ManifestError, TrainingError
from aista.model.loading import configure
from aista.model.speech_lm import AistaForConditionalGeneration
from aista.training import stages
from aista.training.checkpointing import last_checkpoint
from aista.training.stages import joint, pretrain
from aista.training.trainer import TrainingData
from tests import tiny
from tests.training.interrupting import interrupted_after

FAULTS = {
    "translation": {"translation": None},
    "transcript": {"text": None},
    "language": {"tgt_lang": "xx"},
    "slot": {"prompt": "Write <Speech> down."},
}


@pytest.fixture(scope="module")
def stage1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(tiny.pretrain_settings(tmp_path_factory.mktemp("stage1"))).folder


@given(
    st.dictionaries(st.integers(0, 11), st.sampled_from(sorted(FAULTS)), min_size=1, max_size=4),
    st.sampled_from(["train", "validation"]),
)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_is_looked_at_before_features_and_steps(stage1, tmp_path_factory, faults, part):
    folder = tmp_path_factory.mktemp("rows")
    chosen = tiny.joint_settings(folder, str(stage1))
    rows = list(Manifest(folder / "st.jsonl"))
    for number, fault in faults.items():
        rows[number] = rows[number].model_copy(update=FAULTS[fault])
    write_manifest(folder / "faulty.jsonl", rows)
    changes = {part: [str(folder / "faulty.jsonl")], "features": str(folder / "features")}
    chosen = chosen.model_copy(update={"data": chosen.data.model_copy(update=changes)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "cached_features", lambda *_, **__: pytest.fail("features were computed"))
        patch.setattr(stages.AistaTrainer, "step", lambda *_: pytest.fail("a step was taken"))
        with pytest.raises(ManifestError) as error:
            joint(chosen)
    for number in faults:
        assert rows[number].id + ":" in str(error.value)


def test_a_fault_in_the_middle_keeps_what_was_learnt(stage1, tmp_path, monkeypatch):
    chosen = tiny.joint_settings(tmp_path, str(stage1), train={"save_steps": 4})
    original = stages.AistaTrainer.step
    done = []

    def step(self, batches):
        if len(done) == 3:
            raise AudioError("A clip vanished.")
        done.append(1)
        return original(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(stages.AistaTrainer, "step", step)
        with pytest.raises(AudioError, match="vanished"):
            joint(chosen)
    assert last_checkpoint(tmp_path / "joint") == str(tmp_path / "joint/checkpoints/checkpoint-3")
    assert joint(chosen).steps == 4


@pytest.mark.parametrize("share", [0.01, 0.0])
def test_a_bad_clip_of_the_validation_keeps_what_was_learnt(stage1, tmp_path, share):
    """Once it is mended the same command validates where it had stopped, and ends as if nothing had been."""
    runs = []
    for name in ("whole", "mended"):
        (tmp_path / name).mkdir()
        chosen = tiny.joint_settings(tmp_path / name, str(stage1))  # validated and saved after steps 2 and 4
        changes = {"max_corrupt_share": share}
        chosen = chosen.model_copy(update={"data": chosen.data.model_copy(update=changes)})
        rows = Manifest(tmp_path / name / "dev.jsonl")
        clip = rows.audio_path(rows[1])
        sound = clip.read_bytes()
        if name == "mended":
            clip.write_bytes(b"no sound")
            with pytest.raises((CorruptDataError, AudioError)):
                joint(chosen)
            assert last_checkpoint(tmp_path / name / "joint").endswith("checkpoint-2")
            clip.write_bytes(sound)
        runs.append(joint(chosen))
    weights = [load_file(run.folder / "model.safetensors") for run in runs]
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())
    histories = [json.loads((run.folder / "history.json").read_text()) for run in runs]
    found = [
        [(row["step"], row["eval_token_accuracy"]) for row in history if "eval_token_accuracy" in row]
        for history in histories
    ]
    assert found[0] == found[1] and [step for step, _ in found[0]] == [2, 4]


def test_a_run_that_goes_on_counts_the_clips_left_out_before(tmp_path, monkeypatch):
    """In what it leaves, and in the bound on their share; a clip that was mended is read again."""
    chosen = tiny.pretrain_settings(tmp_path)
    path = chosen.data.train[0]
    lasting = [row.model_copy(update={"duration": 0.4 + 0.125 * i}) for i, row in enumerate(Manifest(path))]
    write_manifest(path, lasting)  # a clip that cannot be read has its length from here
    rows = Manifest(path)
    order = LengthGroupedSampler(SpeechDataset(rows).lengths, 3, chosen.seed).order(0).tolist()
    clips = [rows.audio_path(rows[order[place]]) for place in (0, -1)]  # of the first and the last step
    sounds = [clip.read_bytes() for clip in clips]
    for clip in clips:
        clip.write_bytes(b"no sound")

    def settings_of(share, name):
        data = chosen.data.model_copy(update={"max_corrupt_share": share})
        return chosen.model_copy(update={"data": data, "output": str(tmp_path / name)})

    def left_out(settings):
        told = json.loads((pretrain(settings).folder / "training.json").read_text())
        return told["training_data"]["corrupt"]

    few, many = settings_of(0.1, "few"), settings_of(0.2, "many")
    for begun in (few, many):
        with monkeypatch.context() as patch, pytest.raises(stages.Interrupted):
            interrupted_after(1, patch)
            pretrain(begun)
    assert left_out(many) == left_out(settings_of(0.2, "whole")) == 2
    for _ in range(2):  # by the last step; then at once, as nothing was mended
        with pytest.raises(CorruptDataError, match="2 of 12") as caught:
            pretrain(few)
        assert all(rows[order[place]].id in str(caught.value) for place in (0, -1))
    clips[1].write_bytes(sounds[1])
    assert left_out(few) == 1


def test_weights_that_are_not_finite_are_not_kept(stage1, tmp_path, monkeypatch):
    """The loss was finite, its gradient was not: whatever went on from such a checkpoint would fail."""
    original = stages.AistaTrainer.backward
    done = []

    def backward(self, loss, is_finite):
        original(self, loss, is_finite)
        done.append(loss)
        if len(done) == 4:
            next(part for part in self.model.parameters() if part.grad is not None).grad.fill_(torch.nan)

    chosen = tiny.joint_settings(tmp_path, str(stage1))
    with monkeypatch.context() as patch:
        patch.setattr(stages.AistaTrainer, "backward", backward)
        with pytest.raises(TrainingError, match="weights are not finite at step 4"):
            joint(chosen)
    assert last_checkpoint(tmp_path / "joint").endswith("checkpoint-2")
    assert joint(chosen).steps == 4


def test_validation_asks_in_one_wording_whatever_training_draws(stage1, tmp_path):
    chosen = tiny.joint_settings(tmp_path, str(stage1))
    sets = [SpeechDataset([Manifest(path)]) for path in (*chosen.data.train, *chosen.data.validation)]
    collator = Collator(None, prompt_pool=True, seed=1)
    data = TrainingData(*sets, collator)
    drawn, one = set(), set()
    for epoch in range(20):
        collator.set_epoch(epoch)
        drawn.add(data.collator_of(sets[0]).instruction(sets[0].utterance(0)))
        one.add(data.collator_of(sets[1]).instruction(sets[1].utterance(0)))
    assert len(drawn) > 1 and one == {Collator(None).instruction(sets[1].utterance(0))}


# ---- bases


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path):
    from transformers import AutoTokenizer

    hearing, writing = tiny.whisper(tmp_path / "whisper"), tiny.language_model(tmp_path / "lm")
    configure(str(hearing), str(writing))
    tokenizer = AutoTokenizer.from_pretrained(writing)
    tokenizer.add_tokens(["hello", "world"])
    tokenizer.save_pretrained(writing)
    with pytest.raises(CheckpointError, match="no embedding for"):
        configure(str(hearing), str(writing))


@pytest.mark.parametrize("bins", [40, 128])
def test_mel_bins_of_another_encoder_are_refused_with_both_numbers(tmp_path, bins):
    from transformers import WhisperFeatureExtractor

    hearing, writing = tiny.whisper(tmp_path / "whisper"), tiny.language_model(tmp_path / "lm")
    WhisperFeatureExtractor(feature_size=bins).save_pretrained(hearing)
    with pytest.raises(CheckpointError, match=f"(?s){bins} mel bins.*80"):
        configure(str(hearing), str(writing))


@pytest.mark.parametrize("fault", ["missing shard", "broken index", "no map"])
def test_weights_that_are_not_all_there_are_told(tmp_path, fault):
    hearing, writing = tiny.whisper(tmp_path / "whisper"), tiny.language_model(tmp_path / "lm")
    shard, index = writing / "model-00001-of-00002.safetensors", writing / "model.safetensors.index.json"
    shutil.move(writing / "model.safetensors", shard)
    names = {"a": shard.name, "b": "model-00002-of-00002.safetensors"}
    told = {"missing shard": json.dumps({"weight_map": names}), "broken index": "{", "no map": "{}"}[fault]
    index.write_text(told)
    with pytest.raises(CheckpointError, match=r"missing|index of the weights is damaged"):
        AistaForConditionalGeneration.from_bases(str(hearing), backbone=str(writing))


SIZES = {"vocab_size": 262, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def phi3() -> Phi3ForCausalLM:
    return Phi3ForCausalLM(
        Phi3Config(**SIZES, num_key_value_heads=2, intermediate_size=48, pad_token_id=0, eos_token_id=1)
    )


def opt() -> OPTForCausalLM:
    return OPTForCausalLM(OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=512))


GATED = SIZES | {"num_key_value_heads": 1, "intermediate_size": 48}


def gemma3() -> Gemma3ForCausalLM:
    return Gemma3ForCausalLM(Gemma3TextConfig(**GATED, head_dim=16))


OTHERS = {
    "phi3": phi3,
    "opt": opt,
    "mistral": lambda: MistralForCausalLM(MistralConfig(**GATED)),
    "olmo2": lambda: Olmo2ForCausalLM(Olmo2Config(**GATED, pad_token_id=0, eos_token_id=1)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**GATED, head_dim=16)),
    "gemma3": gemma3,
}


@pytest.mark.parametrize(
    "name", ["phi3", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS if name != "phi3")]
)
def test_other_families_train(name, tmp_path):
    chosen = tiny.pretrain_settings(tmp_path, max_steps=2)
    shutil.rmtree(tmp_path / "lm")
    OTHERS[name]().save_pretrained(tmp_path / "lm")
    tiny.tokenizer(tmp_path / "lm")
    assert pretrain(chosen).steps == 2


def test_a_model_that_sees_is_refused_and_its_text_part_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vision = SiglipVisionConfig(**sizes, image_size=28, patch_size=14)
    text = Gemma3TextConfig(**GATED, head_dim=16)
    seeing = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    )
    seeing.save_pretrained("models/gemma-3-4b-it")
    tiny.tokenizer(Path("models/gemma-3-4b-it"))
    hearing = str(tiny.whisper(tmp_path / "whisper"))
    with pytest.raises(CheckpointError, match=r"(?s)'gemma3'.*'gemma3_text'.*own-backbone.md"):
        configure(hearing, "models/gemma-3-4b-it")
    guide = Path(__file__).parents[2] / "docs/guides/own-backbone.md"
    lines = guide.read_text(encoding="utf-8").partition("part of a model that sees")[2]
    exec(lines.split("```python\n")[1].split("```")[0], {})
    assert configure(hearing, "models/gemma-3-4b-text").text_config.model_type == "gemma3_text"
    alone = Gemma3ForCausalLM.from_pretrained("models/gemma-3-4b-text")
    ids = torch.arange(5, 15)[None]
    assert torch.equal(alone.eval()(ids).logits, seeing.eval()(ids).logits)
