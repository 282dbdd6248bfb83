"""A folder belongs to one run: to its settings, to the content of its data and models, to one process."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from aista import run_folder
from aista.config import JointSettings, PretrainSettings, SelectSettings
from aista.errors import AistaError, ConfigError
from aista.evaluation.evaluate import EvaluateSettings, evaluate
from aista.run_folder import claim, held, inputs_of, is_finished
from aista.selection.select import select
from aista.training.stages import Interrupted, joint, pretrain
from tests import tiny
from tests.training.interrupting import interrupted_after

SAID = "finished before, nothing was done"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every verb, finished: a stage-1 model, its layers, a joint model and its scores."""
    folder = tmp_path_factory.mktemp("verbs")
    pretrain(tiny.pretrain_settings(folder))
    for verb in ("select", "joint", "evaluate"):
        VERBS[verb](settings_of(verb, folder))
    return folder


VERBS: dict[str, Callable[[Any], Any]] = {
    "pretrain": pretrain,
    "select": select,
    "joint": joint,
    "evaluate": evaluate,
}


def settings_of(verb: str, folder: Path) -> Any:
    if verb == "pretrain":
        return PretrainSettings.load(folder / "stage1/settings.yaml")
    if verb == "select":
        values = {"model": str(folder / "stage1"), "data": [str(folder / "asr.jsonl")], "num_pairs": 6}
        return SelectSettings.of({"output": str(folder / "select"), "threshold": 0, **values})
    if verb == "joint":
        made = folder / "joint/settings.yaml"
        if made.exists():
            return JointSettings.load(made)
        layers = {"layers": str(folder / "select/layers.json")}
        return tiny.joint_settings(folder, str(folder / "stage1"), alignment=layers)
    values = {"model": str(folder / "joint"), "data": [str(folder / "dev.jsonl")], "limit": 2}
    values |= {"measures": ["speech"], "silence_check": False, "generation": {"max_new_tokens": 4}}
    return EvaluateSettings.of({"output": str(folder / "scores"), **values})


def contents_under(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_the_same_command_says_that_nothing_was_done(
    home: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(verb, home)
    before = contents_under(home)
    VERBS[verb](settings)
    assert contents_under(home) == before
    assert f"{settings.output}: {SAID}" in capsys.readouterr().err


def _of_every_verb() -> list[tuple[str, str]]:
    return [
        ("pretrain", "asr.jsonl"),
        ("pretrain", "lm/model.safetensors"),
        ("pretrain", "whisper/config.json"),
        ("select", "asr.jsonl"),
        ("select", "stage1/model.safetensors"),
        ("joint", "st.jsonl"),
        ("joint", "dev.jsonl"),
        ("joint", "stage1/model.safetensors"),
        ("joint", "select/layers.json"),
        ("evaluate", "dev.jsonl"),
        ("evaluate", "joint/model.safetensors"),
    ]


@pytest.mark.parametrize(("verb", "name"), _of_every_verb())
def test_a_finished_run_is_not_that_of_other_content(home: Path, verb: str, name: str) -> None:
    """One byte of a manifest, a model or a report of layers: refused by name, and nothing is touched."""
    settings, path = settings_of(verb, home), home / name
    before, about = path.read_bytes(), path.stat()
    other = bytearray(before)
    if name == "select/layers.json":
        report = json.loads(before)
        report["rows"][1]["selected"] = not report["rows"][1]["selected"]
        report["selected"] = [row["layer"] for row in report["rows"] if row["selected"]]
        other = bytearray(json.dumps(report).encode())
    else:
        other[-20 if name.endswith("safetensors") else before.rindex(b"}") - 1] ^= 1
    path.write_bytes(other)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))  # no clock is relied on
    try:
        with pytest.raises(ConfigError, match=r"other data or another model[\s\S]*was .*, is ") as error:
            VERBS[verb](settings)
        model = name.split("/")[0] if "/" in name else name
        assert model in str(error.value)
    finally:
        path.write_bytes(before)
    VERBS[verb](settings)


@pytest.mark.slow
def test_an_interrupted_run_does_not_go_on_with_other_data(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny.joint_settings(tmp_path, str(home / "stage1"))
    with monkeypatch.context() as patch:
        interrupted_after(2, patch)
        with pytest.raises(Interrupted):
            joint(settings)
    manifest = tmp_path / "st.jsonl"
    rows = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(rows[:-1]))
    with pytest.raises(ConfigError, match=r"other data[\s\S]*st\.jsonl was sha256"):
        joint(settings)
    manifest.write_text("".join(rows))
    assert joint(settings).steps == 4


def test_layers_chosen_again_alike_are_the_same_layers(home: Path) -> None:
    """A report that was written again, with other times, is not another input."""
    path = home / "select/layers.json"
    before = path.read_text()
    report = json.loads(before)
    for row in report["rows"]:
        row["seconds"] += 1
    path.write_text(json.dumps(report))
    try:
        joint(settings_of("joint", home))
    finally:
        path.write_text(before)


@pytest.mark.parametrize(
    ("verb", "change", "said"),
    [
        ("pretrain", {"train.weight_decay": 0.5}, "train.weight_decay was 0.05, is 0.5"),
        ("pretrain", {"model.lora.r": 4}, "model.lora.r was 8, is 4"),
        ("select", {"num_pairs": 5}, "num_pairs was 6, is 5"),
        ("joint", {"alignment.alpha": 0.5}, "alignment.alpha was 0.99, is 0.5"),
        ("joint", {"alignment.options": {"p": 2}}, 'alignment.options was {}, is {"p": 2}'),
        ("evaluate", {"generation.num_beams": 3}, "generation.num_beams was 1, is 3"),
    ],
)
def test_what_differs_is_said(home: Path, verb: str, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        VERBS[verb](changed(settings_of(verb, home), change))
    assert error.value.got == said


def changed(settings: Any, change: dict[str, Any]) -> Any:
    values = settings.model_dump()
    for key, value in change.items():
        *parents, last = key.split(".")
        place = values
        for name in parents:
            place = place[name]
        place[last] = value
    return type(settings).of(values)


@pytest.mark.parametrize(
    ("verb", "change"),
    [
        ("pretrain", {"data.num_workers": 2, "train.logging_steps": 7, "train.save_steps": 4}),
        ("joint", {"data.features": "elsewhere", "train.per_device_eval_batch_size": 3}),
        ("joint", {"train.compile_blocks": True, "train.activation_checkpointing": True}),
        ("pretrain", {"alignment.layers": [1], "alignment.alpha": 0.5}),  # of a method that aligns nothing
        ("select", {"batch_size": 2, "features": "elsewhere"}),
        ("evaluate", {"generation.batch_size": 1, "features": "elsewhere"}),
    ],
)
def test_what_changes_no_result_is_not_compared(home: Path, verb: str, change: dict[str, Any]) -> None:
    before = contents_under(home)
    VERBS[verb](changed(settings_of(verb, home), change))
    assert contents_under(home) == before


def test_the_micro_batch_is_harmless_only_under_a_global_one(home: Path) -> None:
    free, alone = settings_of("joint", home), {"train.per_device_train_batch_size": 1}
    shared = {"train.global_batch_size": 6}
    assert changed(free, shared).sha256() == changed(free, shared | alone).sha256()
    assert free.sha256() != changed(free, alone).sha256()


def test_a_run_can_be_moved(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(home / "joint", tmp_path / "moved")
    run = joint(changed(settings_of("joint", home), {"output": str(tmp_path / "moved")}))
    assert run.folder == tmp_path / "moved" and SAID in capsys.readouterr().err


def test_an_evaluation_may_ask_for_more_but_not_of_others(home: Path, tmp_path: Path) -> None:
    settings = changed(settings_of("evaluate", home), {"output": str(tmp_path / "scores")})
    few = evaluate(settings)
    more = evaluate(changed(settings, {"limit": 3}))
    assert few["by_set"]["dev"]["num_utterances"] == 2 and more["by_set"]["dev"]["num_utterances"] == 3
    assert evaluate(changed(settings, {"limit": 3})) == more


def test_a_folder_in_which_nothing_was_done_belongs_to_nobody(tmp_path: Path) -> None:
    """A first attempt that failed at a mistake in its settings does not stand in the way of the second."""
    settings = tiny.pretrain_settings(tmp_path)
    wrong = changed(settings, {"alignment.method": "nonesuch"})
    with pytest.raises(AistaError):
        pretrain(wrong)
    assert (tmp_path / "stage1/settings.yaml").exists()
    (tmp_path / "stage1/provenance.yaml").write_text("a sweep's note of what it was about to begin")
    with claim(tmp_path / "stage1", settings, lambda: inputs_of(settings), result="training.json") as done:
        assert not done
    assert PretrainSettings.load(tmp_path / "stage1/settings.yaml") == settings


def test_a_result_without_its_settings_is_not_taken_for_ones_own(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "select", tmp_path / "select")
    (tmp_path / "select/settings.yaml").unlink()
    with pytest.raises(ConfigError, match="does not say what it was made from"):
        select(changed(settings_of("select", home), {"output": str(tmp_path / "select")}))
    assert (tmp_path / "select/layers.json").exists()


def test_a_run_of_an_older_version_says_that_its_data_was_not_compared(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(home / "select", tmp_path / "select")
    (tmp_path / "select/inputs.yaml").unlink()
    select(changed(settings_of("select", home), {"output": str(tmp_path / "select")}))
    assert "not compared" in capsys.readouterr().err


def test_inputs_are_named_with_their_hash(home: Path) -> None:
    inputs = yaml.safe_load((home / "joint/inputs.yaml").read_text())
    assert {key.split(" ")[0] for key in inputs} == {
        "data.train",
        "data.validation",
        "init",
        "alignment.layers",
    }
    settings = settings_of("joint", home)
    assert is_finished(home / "joint", settings, lambda: inputs_of(settings), result="training.json")
    other = changed(settings, {"seed": 4})
    assert not is_finished(home / "joint", other, lambda: inputs_of(other), result="training.json")


# ---- two processes


def _hold(folder: Path, pipe: Any) -> None:
    with held(folder):
        pipe.send(os.getpid())
        pipe.recv()


@pytest.fixture
def other_process(tmp_path: Path):
    """Another process at work in a folder."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_hold, args=(tmp_path / "o", theirs))
    process.start()
    theirs.close()
    assert ours.recv() == process.pid
    yield process, ours
    if process.is_alive():
        process.kill()
    process.join()


def test_the_second_of_two_is_told_who_is_there(tmp_path: Path, other_process: Any) -> None:
    process, pipe = other_process
    settings = SelectSettings.of({"output": str(tmp_path / "o"), "model": "m", "data": ["d"]})
    for _ in range(2):  # asking does not loosen it
        with (
            pytest.raises(ConfigError, match=rf"Another process[\s\S]*process {process.pid} on "),
            claim(tmp_path / "o", settings, dict, result="r"),
        ):
            pytest.fail("claimed")
    assert not (tmp_path / "o/settings.yaml").exists()
    pipe.send("go")
    process.join()
    with claim(tmp_path / "o", settings, dict, result="r") as done:
        assert not done


def test_what_a_killed_process_held_is_free(tmp_path: Path, other_process: Any) -> None:
    process, _ = other_process
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert (tmp_path / "o" / run_folder.HOLDER).exists()
    with held(tmp_path / "o"):
        pass
    assert not (tmp_path / "o" / run_folder.HOLDER).exists()


def test_an_error_gives_the_folder_back(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyError), held(tmp_path):
            raise KeyError


def test_a_folder_that_cannot_be_written_is_an_error_with_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    settings = SelectSettings.of({"output": str(tmp_path / "file/o"), "model": "m", "data": ["d"]})
    with (
        pytest.raises(ConfigError, match="cannot be written"),
        claim(tmp_path / "file/o", settings, dict, result="r"),
    ):
        pytest.fail("claimed")
