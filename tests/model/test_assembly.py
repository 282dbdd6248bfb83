"""Saving what was trained, loading it onto the right bases, and refusing the wrong ones."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from copy import deepcopy as copy_of
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForMultimodalLM

import aista
from aista.errors import CheckpointError, ConfigError
from aista.model import AistaForConditionalGeneration, AistaProcessor
from aista.model.bases import describe, identify, load_speech_encoder, load_tokenizer, locate, used_tensors
from aista.model.feature_cache import encoder_fingerprint
from aista.model.loading import ALIKE, spare_token_id, write_trained
from aista.model.weights import fingerprint, likeness, read_pickle, unlikeness
from aista.speech_llm import Batcher
from tests.model.conftest import QFORMER, noise, run

load = AistaForConditionalGeneration.from_pretrained


@pytest.fixture(scope="module")
def saved(pair, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    pair[0].save_pretrained(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def test_only_the_trained_part_is_saved(pair, saved):
    tensors = load_file(saved / "model.safetensors")
    assert set(tensors) == set(pair[0].trained_names())
    assert sorted(p.name for p in saved.iterdir()) == ["config.json", "model.safetensors"]
    named = json.loads((saved / "config.json").read_text())["bases"]
    assert set(named) == {"speech_encoder", "audio_encoder", "backbone"}
    assert all(base["fingerprint"].startswith("sha256:") for base in named.values())


def test_loaded_it_is_the_same_model(pair, saved):
    model, processor = pair
    batch = Batcher(processor, model.config).training(noise(0.5, 1.1), ["Go."] * 2, ["x", "yy"])
    for again in (
        load(saved, dtype="float32"),
        AutoModelForMultimodalLM.from_pretrained(saved, dtype="float32"),
    ):
        assert isinstance(again, AistaForConditionalGeneration)
        assert torch.equal(run(again, batch).logits, run(model, batch).logits)
        assert again.trained_names() == model.trained_names()
    assert AutoConfig.from_pretrained(saved).model_type == "aista"


def test_a_model_saved_before_there_was_a_placeholder_is_the_same_model(pair, copy):
    """The placeholder is then one past the vocabulary, which is never looked up."""
    model, processor = pair
    content = json.loads((copy / "config.json").read_text())
    del content["audio_token_id"]
    (copy / "config.json").write_text(json.dumps(content))
    old = load(copy, dtype="float32")
    assert old.config.audio_token_id == old.config.text_config.vocab_size
    batches = [
        Batcher(made, made.config).training(noise(0.5, 1.1), ["Go."] * 2, ["x", "yy"])
        for made in (processor, AistaProcessor.from_pretrained(copy))
    ]
    logits = [run(*each).logits for each in zip((model, old), batches, strict=True)]
    assert torch.equal(*logits)


@pytest.mark.parametrize(("rows", "wanted"), [(262, None), (300, 262)])
def test_the_placeholder_is_a_row_that_no_token_uses(bases, rows, wanted):
    tokenizer = load_tokenizer(Path(bases.path("qwen2")))
    assert max(tokenizer.get_vocab().values()) == 261
    assert spare_token_id(tokenizer, rows) == wanted


@pytest.mark.parametrize("kind", HfHubHTTPError.__bases__)
def test_a_hub_that_does_not_answer_is_said(monkeypatch, kind):
    """A proxy's refusal and a torn connection are errors of the HTTP library, which differs by version."""

    def refuse(*_, **__):
        raise kind("403 Forbidden")

    monkeypatch.setattr("aista.model.bases.snapshot_download", refuse)
    with pytest.raises(CheckpointError, match="neither a path here"):
        locate("some/model")


def test_a_folder_called_snapshots_is_no_cache_of_the_hub(tmp_path, monkeypatch):
    (tmp_path / "snapshots/lm").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert describe("snapshots/lm") == {"source": str(tmp_path / "snapshots/lm"), "revision": None}
    monkeypatch.setattr("aista.model.bases.snapshot_download", lambda *_, **__: tmp_path / "snapshots/lm")
    assert describe("some/model") == {"source": "some/model", "revision": "lm"}


def test_features_of_other_windows_or_batches_as_salmonns_are_other_features(pair):
    config = copy_of(pair[0].config)
    config.audio_config.batch_invariant = False
    assert encoder_fingerprint(config) != encoder_fingerprint(pair[0].config)
    config = copy_of(pair[0].config)
    config.speech_tokens = "padded"  # or windows of silence would be taken for speech
    assert encoder_fingerprint(config) != encoder_fingerprint(pair[0].config)


def test_an_unknown_dtype_is_said(saved):
    with pytest.raises(ConfigError, match=r"Unknown dtype[^$]*fp16[^$]*bfloat16"):
        load(saved, dtype="fp16")


def test_the_trainable_state_is_strict(pair, bases):
    model, _ = bases.model()
    state = model.trainable_state_dict()
    name = "window_qformer.projection.weight"
    for change, message in (
        ({name: None}, "missing"),
        ({"window_qformer.extra": torch.zeros(1)}, "does not know"),
        ({name: None, "window_qformer.projektion.weight": state[name]}, "renamed"),
        ({name: state[name].T}, "permuted"),
        ({name: state[name][:3]}, "another shape"),
    ):
        damaged = {key: tensor for key, tensor in (state | change).items() if tensor is not None}
        with pytest.raises(CheckpointError, match=message):
            model.load_trainable(damaged)
    model.load_trainable(state)


def test_changed_cut_or_absent_weights_are_refused(copy):
    path = copy / "model.safetensors"
    tensors = load_file(path)
    whole = path.read_bytes()
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    first, second = "window_qformer.speech_norm.weight", "window_qformer.speech_norm.bias"
    save_file({**tensors, first: tensors[second], second: tensors[first]}, path, metadata=metadata)
    with pytest.raises(CheckpointError, match="changed after"):
        load(copy)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged or cut"):
        load(copy)
    path.unlink()
    with pytest.raises(CheckpointError, match="weights are missing"):
        load(copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="configuration is damaged"):
        load(copy)


def test_equal_weights_are_equal_bytes(tmp_path: Path) -> None:
    """safetensors orders metadata of several keys at random: a stage trained again was taken for another."""
    written = set()
    for _ in range(16):
        write_trained(tmp_path, {"b": torch.ones(2), "a": torch.zeros(3)})
        written.add((tmp_path / "model.safetensors").read_bytes())
    assert len(written) == 1


def test_another_base_is_refused_until_told_otherwise(bases, saved, tmp_path):
    other = Path(shutil.copytree(bases.path("qwen2"), tmp_path / "other"))
    weights = load_file(other / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][0, 0] += 1e-3
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="backbone is not the one") as error:
        load(saved, replace_bases={"backbone": str(other)})
    assert "replace_bases" in str(error.value)
    with pytest.warns(UserWarning, match="not the one"):
        load(saved, replace_bases={"backbone": str(other)}, check_bases=False, dtype="float32")
    moved = shutil.copytree(bases.path("qwen2"), tmp_path / "moved")
    load(saved, replace_bases={"backbone": str(moved)}, dtype="float32")
    with pytest.raises(ConfigError, match="no such base"):
        load(saved, replace_bases={"vocoder": str(other)})


def test_bases_are_found_beside_the_checkpoint_or_named_missing(bases, copy):
    content = json.loads((copy / "config.json").read_text())
    content["bases"]["backbone"]["source"] = "lm"
    (copy / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="does not exist"):
        load(copy)
    places = {"backbone": str(bases.path("qwen2"))}  # model and processor are told alike
    assert aista.load(copy, replace_bases=places).processor.tokenizer("a").input_ids
    assert AistaProcessor.from_pretrained(copy, replace_bases=places).tokenizer("a").input_ids
    with pytest.raises(ConfigError, match="no such base"):
        AistaProcessor.from_pretrained(copy, replace_bases={"vocoder": places["backbone"]})
    shutil.copytree(bases.path("qwen2"), copy / "lm")
    load(copy, dtype="float32")


def test_the_same_weights_have_the_same_fingerprint_in_every_container(bases, tmp_path):
    """Safetensors, pickle or shards; a Whisper with or without its decoder; BEATs with or without a head."""
    folder = Path(bases.path("qwen2"))
    wanted = identify("backbone", folder)
    pickled = tmp_path / "pickled"
    shutil.copytree(folder, pickled)
    torch.save(load_file(folder / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    assert identify("backbone", pickled) == wanted
    whole = Path(bases.path("whisper102"))
    encoder = load_speech_encoder(whole, torch.float32)
    encoder.save_pretrained(tmp_path / "encoder")
    assert identify("speech_encoder", tmp_path / "encoder") == identify("speech_encoder", whole)
    assert fingerprint([("a", torch.zeros(2))]) != fingerprint([("a", torch.zeros(2, 1))])


def test_weights_are_known_by_a_few_values_in_any_precision():
    torch.manual_seed(0)
    matrices = {f"layers.{i}.weight": torch.randn(30, 20) for i in range(40)}
    looks = likeness({**matrices, "bias": torch.randn(20)}.items())
    assert len(looks) == 10
    assert all(len(row) == 16 for row in looks.values())
    assert all(
        row[-1] == pytest.approx(float(matrices[name][-1, -1]), abs=1e-4) for name, row in looks.items()
    )
    halves = {name: value.half() for name, value in matrices.items()}
    assert unlikeness(halves.items(), looks) < 1e-3
    noisy = {name: value + 0.1 * torch.randn(30, 20) for name, value in matrices.items()}
    assert 0.05 < unlikeness(noisy.items(), looks) < ALIKE
    others = {name: torch.randn(30, 20) for name in matrices}
    assert unlikeness(others.items(), looks) == pytest.approx(2**0.5, abs=0.2)
    del matrices["layers.0.weight"]
    assert unlikeness(matrices.items(), looks) == float("inf")


def test_a_model_shipped_without_bases_takes_them_in_another_precision_and_no_others(bases, copy):
    folder, content = Path(bases.path("qwen2")), json.loads((copy / "config.json").read_text())
    backbone = content["bases"]["backbone"]
    backbone |= {"source": "lm", "likeness": likeness(used_tensors("backbone", folder))}
    del backbone["fingerprint"]
    (copy / "config.json").write_text(json.dumps(content))
    shutil.copytree(folder, copy / "lm")
    weights = load_file(folder / "model.safetensors")
    save_file({name: value.half() for name, value in weights.items()}, copy / "lm" / "model.safetensors")
    load(copy, dtype="float32")
    torch.manual_seed(0)
    wrong = {name: value + value.std() * torch.randn_like(value) for name, value in weights.items()}
    save_file(wrong, copy / "lm" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"not the one .* trained on(.|\n)*% off"):
        load(copy, dtype="float32")


def test_a_large_tensor_is_sampled_over_all_of_it():
    large = torch.zeros(2_000_000)
    wanted = fingerprint([("w", large)])
    large[-1] = 1.0
    assert fingerprint([("w", large)]) != wanted
    large[-1] = 0.0
    large[1_000_003] = 1.0
    assert fingerprint([("w", large)], whole=True) != fingerprint([("w", torch.zeros(2_000_000))], whole=True)


def test_broken_bases_are_named(bases, tmp_path):
    good = {"speech_encoder": bases.path("whisper102"), "backbone": bases.path("qwen2")}
    build = AistaForConditionalGeneration.from_bases
    with pytest.raises(CheckpointError, match="another kind"):
        build(good["backbone"], good["backbone"])
    with pytest.raises(CheckpointError, match="does not exist"):
        build("./nowhere", good["backbone"])
    with pytest.raises(CheckpointError, match="ships no such base"):
        build("aista:nothing", good["backbone"])
    with pytest.raises(CheckpointError, match="fetched from the hub"):
        build("someone/some-whisper", good["backbone"])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CheckpointError, match="no model"):
        build(str(empty), good["backbone"])
    shutil.copytree(good["speech_encoder"], tmp_path / "cut")
    weights = load_file(tmp_path / "cut/model.safetensors")
    weights.pop("encoder.conv1.bias")
    save_file(weights, tmp_path / "cut/model.safetensors")
    with pytest.raises(CheckpointError, match="missing"):
        build(str(tmp_path / "cut"), good["backbone"], qformer=QFORMER)


class _Evil:
    """Would make a file named by the environment, if it were ever unpickled."""

    def __reduce__(self):
        return os.mkdir, (os.environ["AISTA_TEST_MARK"],)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_wants_to_run_code_is_refused_and_runs_nothing(tmp_path, monkeypatch, protocol):
    mark = tmp_path / "ran"
    monkeypatch.setenv("AISTA_TEST_MARK", str(mark))
    evil = tmp_path / "evil.pt"
    torch.save({"model": {"speech_query_tokens": _Evil()}, "cfg": {}}, evil, pickle_protocol=max(2, protocol))
    raw = tmp_path / "raw.pt"
    raw.write_bytes(pickle.dumps({"model": _Evil()}, protocol=protocol))
    for path in (evil, raw):
        with pytest.raises(CheckpointError, match=r"could run code|damaged"):
            read_pickle(path)
    assert not mark.exists()
    with pytest.raises(CheckpointError, match="could run code"):
        read_pickle(evil)


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "noise.pt").write_bytes(bytes(range(200, 256)) * 8)
    (tmp_path / "page.pt").write_bytes(b"<?xml version='1.0'?><Error>AuthenticationFailed</Error>")
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save([1, 2], tmp_path / "list.pt")
    whole = tmp_path / "whole.pt"
    torch.save({"a": torch.zeros(1000)}, whole)
    (tmp_path / "cut.pt").write_bytes(whole.read_bytes()[:600])
    for name, message in {
        "noise": "damaged",
        "empty": "damaged",
        "cut": "damaged",
        "list": "dictionary",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            read_pickle(tmp_path / f"{name}.pt")
