"""SALMONN's checkpoints: both ways, strictly, and by the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from aista.checkpoints import salmonn
from aista.checkpoints.beats import convert, inspect
from aista.errors import CheckpointError
from aista.model import AistaForConditionalGeneration, BeatsForAudioTagging
from aista.model.loading import Options
from tests import tiny


@pytest.fixture(scope="module")
def kit(shared_dir) -> Path:
    return shared_dir / "parity/kit"


@pytest.fixture(scope="module")
def content(kit) -> dict:
    return torch.load(kit / "tiny_salmonn.pth", weights_only=True)


def load(kit: Path, path: Path | None = None, **options) -> AistaForConditionalGeneration:
    places = {"whisper": "tiny_whisper", "beats": "tiny_beats.pt", "llm": "tiny_llama"}
    bases = {name: str(kit / place) for name, place in places.items()} | options
    frozen = salmonn.FrozenModels(**bases)
    return salmonn.load(path or kit / "tiny_salmonn.pth", frozen, options=Options("float32"))


def test_import_save_load_export_gives_the_same_bytes(kit, content, tmp_path):
    model = load(kit)
    model.save_pretrained(tmp_path / "ours")
    again = AistaForConditionalGeneration.from_pretrained(tmp_path / "ours", dtype="float32")
    salmonn.export(again, tmp_path / "theirs.pth")
    written = torch.load(tmp_path / "theirs.pth", weights_only=True)
    assert sorted(written) == sorted(content) and list(written["model"]) == list(content["model"])
    for name, tensor in content["model"].items():
        assert written["model"][name].dtype == tensor.dtype, name
        assert written["model"][name].numpy().tobytes() == tensor.numpy().tobytes(), name
    wanted = content["config"]["model"]
    assert all(wanted[name] == value for name, value in written["config"]["model"].items())
    load(kit, tmp_path / "theirs.pth")


def test_every_key_is_accounted_for(kit, content):
    report = load(kit).import_report
    leaked = [name for names in report.leaks.values() for name in names]
    assert sorted([*report.taken, *leaked]) == sorted(content["model"])
    assert "77 taken, 7 leaked, 0 unexplained" in str(report)
    assert len(report.checks) == 2


PROJECTION = "speech_llama_proj.weight"
KEY = "speech_Qformer.bert.encoder.layer.0.crossattention.self.key.weight"
LORA = "llama_model.base_model.model.model.layers.1.self_attn.q_proj.lora_B.default.weight"
TABLE = "beats.encoder.layers.1.self_attn.relative_attention_bias.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop(KEY), "missing"),
        (lambda m: m.update({"speech_decoder.weight": torch.zeros(2)}), "nothing explains"),
        (lambda m: m.update({KEY.replace("key", "kay"): m.pop(KEY)}), "renamed"),
        (lambda m: m.update({KEY: m[KEY].T}), "permuted"),
        (lambda m: m.update({KEY: m[KEY][:7]}), "another shape"),
        (lambda m: m.update({LORA: m[LORA][:-1]}), "another shape"),
        (lambda m: m.update({TABLE: m[TABLE] + 1}), "not the BEATs model"),
        (lambda m: m.update({PROJECTION: torch.zeros(80, 32)}), "another size"),
        (lambda m: m.pop("speech_query_tokens"), "not a SALMONN checkpoint"),
    ],
)
def test_each_damage_has_its_own_message(kit, content, tmp_path, change, message):
    damaged = {**content, "model": dict(content["model"])}
    change(damaged["model"])
    torch.save(damaged, tmp_path / "damaged.pth")
    with pytest.raises(CheckpointError, match=message):
        load(kit, tmp_path / "damaged.pth")


def test_a_tied_head_that_leaked_is_explained(kit, content, tmp_path):
    leaky = {"llama_model.base_model.model.lm_head.weight": torch.zeros(420, 64), **content["model"]}
    torch.save({**content, "model": leaky}, tmp_path / "leaky.pth")
    assert "a tied LM head" in load(kit, tmp_path / "leaky.pth").import_report.leaks


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"second_stride": 0.2}, "overlap"),
        ({"window_level_Qformer": False}, "without the window-level"),
        ({"use_speech_Qformer": False}, "without the window-level"),
    ],
)
def test_what_is_not_computed_here_is_refused(kit, content, tmp_path, settings, message):
    other = {**content, "config": {"model": content["config"]["model"] | settings}}
    torch.save(other, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=message):
        load(kit, tmp_path / "other.pth")


def test_another_prompt_is_told(kit, content, tmp_path):
    changed = content["config"]["model"] | {"prompt_template": "Human: {}"}
    torch.save({**content, "config": {"model": changed}}, tmp_path / "other.pth")
    with pytest.warns(UserWarning, match="another prompt"):
        load(kit, tmp_path / "other.pth")


def test_wrong_bases_are_refused(kit, tmp_path):
    with pytest.raises(CheckpointError, match="trained with BEATs"):
        load(kit, beats=None)
    with pytest.raises(CheckpointError, match="another kind"):
        load(kit, whisper=str(kit / "tiny_llama"))


def test_vicuna_of_another_generation_is_refused(kit):
    """13 B wants Vicuna 1.1 (LLaMA 1), 7 B wants 1.5 (Llama 2), unless the user says otherwise."""
    from aista.model.estimate import preset

    config = preset("vicuna-13b")
    state = {"speech_llama_proj.weight": torch.empty(5120, 768, device="meta")}
    config.text_config.max_position_embeddings, config.text_config.rms_norm_eps = 2048, 1e-6
    salmonn._require_llm(state, config, any_llm=False)
    config.text_config.max_position_embeddings, config.text_config.rms_norm_eps = 4096, 1e-5
    with pytest.raises(CheckpointError, match=r"not Vicuna-13B v1\.1"):
        salmonn._require_llm(state, config, any_llm=False)
    salmonn._require_llm(state, config, any_llm=True)
    with pytest.raises(CheckpointError, match="another size"):
        salmonn._require_llm(state, preset("vicuna-7b"), any_llm=True)


def test_an_imported_model_refuses_another_llm(kit, tmp_path):
    model = load(kit)
    model.save_pretrained(tmp_path / "ours")
    other = Path(shutil.copytree(kit / "tiny_llama", tmp_path / "llama"))
    other.chmod(0o755)
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 1.001 + 0.01
    (other / "model.safetensors").unlink()
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="backbone is not the one"):
        AistaForConditionalGeneration.from_pretrained(
            tmp_path / "ours", replace_bases={"backbone": str(other)}
        )


def own_model(folder: Path, **settings) -> AistaForConditionalGeneration:
    bases = str(tiny.whisper(folder / "whisper")), str(tiny.language_model(folder / "lm", "llama"))
    qformer = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    return AistaForConditionalGeneration.from_bases(
        *bases, qformer=qformer | settings.pop("q", {}), **settings
    )


@pytest.mark.parametrize("frames", [8, 17, 26, 30, 51])
def test_an_exported_window_is_read_as_it_was_by_both(tmp_path, frames):
    model = own_model(tmp_path, q={"frames_per_window": frames})
    with pytest.warns(UserWarning, match=r"padded \(here voiced\)"):  # SALMONN hears all windows
        salmonn.export(model, tmp_path / "x.pth")
    seconds = torch.load(tmp_path / "x.pth", weights_only=True)["config"]["model"]["second_per_window"]
    assert round(50 * seconds) == frames  # ours; the next is SALMONN's own arithmetic
    assert round(1500 * seconds / 30.0) == frames


@pytest.mark.parametrize(
    "setting", [{"speech_token_scale": "embeddings"}, {"speech_window_seconds": 1.02}]
)  # fmt: skip
def test_what_salmonn_cannot_do_is_not_exported(tmp_path, setting):
    with pytest.raises(CheckpointError, match=next(iter(setting))):
        salmonn.export(own_model(tmp_path, **setting), tmp_path / "x.pth")
    assert not (tmp_path / "x.pth").exists()


def test_by_the_command_line(kit, tmp_path):
    from aista.cli.weights import exports as export_app
    from aista.cli.weights import imports as import_app

    run, out = CliRunner().invoke, tmp_path / "ours"
    bases = ["--whisper", str(kit / "tiny_whisper"), "--beats", str(kit / "tiny_beats.pt"), "--llm"]
    found = run(
        import_app,
        ["salmonn", str(kit / "tiny_salmonn.pth"), *bases, str(kit / "tiny_llama"), "-o", str(out)],
    )
    assert found.exit_code == 0, found.output
    assert "77 taken" in found.output and (out / "tokenizer_config.json").is_file()
    again = run(import_app, ["salmonn", "x.pth", "--whisper", "w", "--llm", "l", "-o", str(out)])
    assert "is not empty" in str(again.exception)
    back = tmp_path / "back.pth"
    assert run(export_app, ["salmonn", str(out), "-o", str(back)]).exit_code == 0
    assert back.stat().st_size > 100_000


def test_beats_files_are_recognised_and_kept_as_safetensors(kit, tmp_path):
    report = convert(kit / "tiny_beats.pt", tmp_path / "beats")
    assert (report.layers, report.width, report.labels, report.published) == (3, 32, 11, False)
    assert report == inspect(kit / "tiny_beats.pt")
    kept = BeatsForAudioTagging.from_pretrained(tmp_path / "beats").state_dict()
    read = BeatsForAudioTagging.from_checkpoint(kit / "tiny_beats.pt").state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in read.items())
    with pytest.raises(CheckpointError, match="not empty"):
        convert(kit / "tiny_beats.pt", tmp_path / "beats")
