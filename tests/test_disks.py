"""Full disks, bad folders, odd names, damage and moves: one message, nothing torn, the others go on."""

from __future__ import annotations

import errno
import importlib
import io
import json
import os
import resource
import shutil
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from aista.cli import main
from aista.data.feature_store import FeatureStore, FeatureStoreWriter
from aista.errors import CheckpointError, TrainingError
from aista.files import draft_of, write_whole
from aista.model.speech_lm import AistaForConditionalGeneration
from aista.ot import kernels
from aista.training.checkpointing import last_checkpoint
from aista.training.stages import joint, pretrain
from tests import tiny
from tests.data import miniatures
from tests.training import test_align as test_align

ADD = main._add_verbs


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with bases, a stage-1 model and manifests."""
    folder = tmp_path_factory.mktemp("project")
    pretrain(tiny.pretrain_settings(folder))
    tiny.joint_settings(folder, str(folder / "stage1")).save(folder / "joint.yaml")
    miniatures.librispeech(folder / "corpus")
    (folder / "first").mkdir()
    test_align.settings(folder / "first").save(folder / "align.yaml")
    return folder


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """What a full disk answers, on any machine.

    Python 3.11 does not notice that a compiled module was cut short, and every later process would fail on
    it ("marshal data too short"): nothing is compiled to disk meanwhile.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    compiles_to_nowhere, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = compiles_to_nowhere


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["aista", *map(str, arguments)])
    monkeypatch.setattr(main, "_add_verbs", lambda: None if main.app.registered_groups else ADD())
    try:
        main.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


# ---- one writer for all


@given(st.binary(min_size=1, max_size=255).filter(lambda name: not set(name) & set(b"/\0")))
@settings(max_examples=50, deadline=None)
def test_any_name_that_a_disk_allows_is_written(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("names")
    path = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
    if name in (b".", b".."):
        return
    write_whole(path, f"{path.name} 好")
    assert json.loads(json.dumps(path.read_text(encoding="utf-8")))
    assert len(list(folder.iterdir())) == 1


@given(st.binary(max_size=3_000), st.integers(0, 2_000))
@settings(max_examples=30, deadline=None)
def test_what_is_written_is_whole_or_as_before(tmp_path_factory, content, limit):
    path = tmp_path_factory.mktemp("whole") / "file"
    path.write_bytes(b"before")
    try:
        with no_file_larger_than(limit), draft_of(path) as draft:
            draft.write_bytes(content)
    except OSError as error:
        assert error.filename == str(path)
    assert path.read_bytes() == (content if len(content) <= limit else b"before")
    assert [each.name for each in path.parent.iterdir()] == ["file"]


def test_a_disk_that_is_read_only_names_the_file(tmp_path, monkeypatch):
    """It refuses to delete a draft that it did not let anybody make, too."""

    def refuse(path, **_):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OSError) as caught, draft_of(tmp_path / "file") as draft:
        refuse(draft)
    assert caught.value.filename == str(tmp_path / "file")


def test_a_full_disk_names_the_folder_of_features_and_they_go_on(tmp_path):
    arrays = {f"clip {number}": np.full((10, 8), number, np.float32) for number in range(4)}
    for limit in (300, 10_000):
        try:
            with no_file_larger_than(limit), FeatureStoreWriter(tmp_path / "f", 8) as writer:
                for name, array in arrays.items():
                    writer.add(name, array)
        except OSError as error:
            assert limit == 300 and error.filename == str(tmp_path / "f")
        else:
            assert limit == 10_000
    store = FeatureStore(tmp_path / "f")
    assert set(store) == set(arrays) and all(np.array_equal(store[name], arrays[name]) for name in arrays)


def test_a_device_stays_a_device_and_a_link_a_link(tmp_path):
    with draft_of(Path("/dev/null")) as draft:
        assert draft == Path("/dev/null")
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new"
    umask = os.umask(0o022)
    os.umask(umask)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask


def test_threads_that_write_one_file_do_not_mix(tmp_path):
    """Each has a draft of its own, and the mask of permissions stays what it was."""
    before = os.umask(0o027)
    try:
        meet = threading.Barrier(2)

        def write(text: str) -> Path:
            with draft_of(tmp_path / "file") as draft:
                meet.wait(10)
                draft.write_text(text)
                meet.wait(10)
                assert draft.read_text() == text
            return draft

        with ThreadPoolExecutor(2) as pool:
            drafts = list(pool.map(write, ["one", "two"]))
        assert len(set(drafts)) == 2 and (tmp_path / "file").read_text() in ("one", "two")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: write_whole(tmp_path / "many", str(n)), range(400)))
        assert [path.name for path in sorted(tmp_path.iterdir())] == ["file", "many"]
        assert (tmp_path / "many").stat().st_mode & 0o777 == 0o640
    finally:
        assert os.umask(before) == 0o027


# ---- every verb


VERBS = {
    "split": ["data", "split", "st.jsonl", "train=0.5", "dev=0.5", "--out", "OUT"],
    "mix": ["data", "mix", "st.jsonl=1", "--out", "OUT/x.jsonl"],
    "subset": ["data", "subset", "st.jsonl", "--count", "3", "--out", "OUT/x.jsonl"],
    "cut": ["data", "cut", "st.jsonl", "--out", "OUT/x.jsonl"],
    "shard": ["data", "shard", "st.jsonl", "--out", "OUT"],
    "export": ["data", "export", "st.jsonl", "--format", "table", "--out", "OUT/x.tsv"],
    "salmonn": ["export", "salmonn", "stage1", "--out", "OUT/x.pth"],
    "joint": ["joint", "--config", "joint.yaml", "--set", "output=OUT"],
    "cached": ["joint", "--config", "joint.yaml", "--set", "output=OUT", "--set", "data.features=OUT/f"],
    "select": ["select", "--set", "model=stage1", "--set", "data=[st.jsonl]", "--set", "output=OUT"],
    "prepare": [
        "data",
        "prepare",
        "librispeech",
        "--source",
        "corpus",
        "--split",
        "dev-clean",
        "--out",
        "OUT",
    ],
    "demo": ["demo", "--scale", "nano", "--output", "OUT"],
    "study": ["study", "cosine", "--scale", "nano", "--seeds", "1", "--workers", "0", "--output", "OUT"],
    "reproduce": ["reproduce", "table5", "--scale", "nano", "--workers", "0", "--output", "OUT"],
    "align": ["align", "--config", "align.yaml", "--set", "output=OUT"],
    "evaluate": ["evaluate", "--set", "model=stage1", "--data", "st.jsonl", "--output", "OUT"],
}


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("fault", ["full", "a file is in the way"])
def test_a_disk_that_refuses_gets_one_message(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str, fault: str
) -> None:
    monkeypatch.chdir(project)
    out = project / "refused"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    place = "refused"
    if fault != "full":
        (out / "file").touch()
        place = "refused/file/below"
    arguments = [part.replace("OUT", place) for part in VERBS[verb]]
    if fault == "full":
        with no_file_larger_than(20):
            code = run(monkeypatch, *arguments)
    else:
        code = run(monkeypatch, *arguments)
    told = capsys.readouterr().err
    assert code == 2 and "Traceback" not in told and "refused" in told, told
    assert not list(out.rglob(".*.partial*"))
    left = {path.name for path in out.rglob("*") if path.is_file()} - {".lock"}
    may_stay = {"inputs.yaml", "settings.yaml", ".dev-clean.durations.tsv"}  # what was measured is kept
    assert left <= ({"file"} if fault != "full" else {"file", *may_stay}), left


@pytest.mark.slow
def test_a_full_disk_in_the_middle_of_training_is_told_and_goes_on(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch says it in words of its own, wherever the disk ends."""
    monkeypatch.chdir(project)
    arguments = ["joint", "--config", "joint.yaml", "--set", "output=full"]
    for size in (5_000, 50_000):
        with no_file_larger_than(size):
            assert run(monkeypatch, *arguments) == 2
        told = capsys.readouterr().err
        assert "cannot be written" in told and "MB are free" in told
        assert all((torn / "COMPLETE").exists() for torn in (project / "full/checkpoints").glob("*"))
    assert run(monkeypatch, *arguments) == 0
    whole = joint(tiny.joint_settings(project, str(project / "stage1"), output=str(project / "undisturbed")))
    one, other = (load_file(folder / "model.safetensors") for folder in (project / "full", whole.folder))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_translation_that_cannot_be_written_stops_no_other(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    sound = (project / "st_3.wav").read_bytes()
    long = "好" * 83 + ".wav"  # 253 bytes; with the language it is too long
    strange = os.fsdecode(b"caf\xe9.wav")
    for name in (long, strange, "plain.wav"):
        Path(name).write_bytes(sound)
    arguments = ["--model", "stage1", "--max-new-tokens", "2", "--output-format", "json", "--output-dir", "t"]
    assert run(monkeypatch, "translate", long, strange, "plain.wav", "--to", "en", *arguments) == 1
    assert "File name too long" in capsys.readouterr().err
    written = [b".translations.jsonl", b"caf\xe9.en.json", b"plain.en.json"]
    assert sorted(map(os.fsencode, os.listdir("t"))) == written
    assert run(monkeypatch, "translate", strange, "plain.wav", "--to", "en", *arguments) == 0
    assert capsys.readouterr().err.count("finished before") == 2
    assert json.loads(Path("t", os.fsdecode(b"caf\xe9.en.json")).read_text())["source"] == strange


@pytest.mark.parametrize(
    "encoding",
    [
        "ascii",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("latin-1", "cp1252", "shift-jis", "utf-8")),
    ],
)
def test_any_name_and_text_on_any_locale(
    project: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.chdir(project)
    strange = os.fsdecode("カフェ 🎙 é ".encode() + b"\xe9.wav")
    Path(strange).write_bytes((project / "st_3.wav").read_bytes())
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    names = [strange, "st_3.wav", "no 好.wav"]
    code = run(monkeypatch, "translate", *names, "--to", "en", "--model", "stage1", "--max-new-tokens", "2")
    out.flush()
    assert code == 1 and out.buffer.getvalue().count(b": ") >= 2  # type: ignore[attr-defined]


# ---- damage

WRITTEN = ["optimizer.pt", "random_0.pt", "trainer_state.json", "sums.json", "model.safetensors"]


@pytest.fixture(scope="module")
def stopped(project: Path) -> Path:
    """A run of four steps, not finished, with the checkpoints of steps 2 and 4."""
    changes = {"eval_steps": 2, "save_steps": 2}
    folder = joint(tiny.joint_settings(project, str(project / "stage1"), train=changes)).folder
    (folder / "training.json").rename(project / "training.json")
    return folder


@pytest.mark.slow
@given(st.sampled_from(WRITTEN), st.sampled_from(["cut", "flipped", "gone"]), st.integers(0, 1_000))
@settings(max_examples=15, deadline=None)
def test_the_newest_whole_checkpoint_is_taken(stopped, tmp_path_factory, name, damage, place):
    run_folder = tmp_path_factory.mktemp("damaged") / "run"
    shutil.copytree(stopped, run_folder)
    path = run_folder / "checkpoints/checkpoint-4" / name
    data = bytearray(path.read_bytes())
    place %= len(data)
    data[place] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:place] if damage == "cut" else data)
    assert last_checkpoint(run_folder) == str(run_folder / "checkpoints/checkpoint-2")
    (run_folder / "checkpoints/checkpoint-2" / name).unlink()
    with pytest.raises(TrainingError, match="damaged"):
        last_checkpoint(run_folder)


@pytest.mark.slow
def test_a_damaged_and_moved_run_ends_as_an_undisturbed_one(project, stopped):
    moved = project / "elsewhere" / "run"
    shutil.copytree(stopped, moved)
    (moved / "checkpoints/checkpoint-4/optimizer.pt").write_bytes(b"torn")
    changes = {"eval_steps": 2, "save_steps": 2}
    again = tiny.joint_settings(project, str(project / "stage1"), train=changes, output=str(moved))
    assert joint(again).steps == 4
    one, other = (load_file(folder / "model.safetensors") for folder in (moved, stopped))
    assert all(torch.equal(one[name], other[name]) for name in one)


@given(st.integers(0, 3), st.integers(0, 10_000), st.sampled_from(["zero", "nan", "flip"]))
@settings(max_examples=25, deadline=None)
def test_a_damaged_feature_is_named_when_it_is_read(tmp_path_factory, row, place, damage):
    folder = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(row)
    arrays = [rng.normal(size=(5 + i, 8)).astype(np.float32) + 3 for i in range(4)]
    with FeatureStoreWriter(folder, 8) as writer:
        for number, array in enumerate(arrays):
            writer.add(f"clip {number}", array)
    starts = np.cumsum([0, *(array.size * 2 for array in arrays)])
    data = bytearray((folder / "features.bin").read_bytes())
    at = int(starts[row] + place % (starts[row + 1] - starts[row] - 1)) // 2 * 2
    data[at : at + 2] = {"zero": b"\0\0", "nan": b"\xff\x7f", "flip": bytes([data[at] ^ 4, data[at + 1]])}[
        damage
    ]
    (folder / "features.bin").write_bytes(data)
    store = FeatureStore(folder)
    for number in range(4):
        if number != row:
            assert np.allclose(store[f"clip {number}"], arrays[number], atol=0.01)
    with pytest.raises(CheckpointError, match=f"(?s){folder.name}.*clip {row}"):
        store[f"clip {row}"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"complete": true}'])
def test_a_damaged_store_is_told(tmp_path, content):
    with FeatureStoreWriter(tmp_path, 2) as writer:
        writer.add("a", np.zeros((3, 2), np.float32))
    (tmp_path / "store.json").write_text(content)
    with pytest.raises(CheckpointError, match="damaged"):
        FeatureStore(tmp_path)


@pytest.mark.parametrize("line", [b"x\ta\n", b"3\n", b"\n", b"3 zz\ta\n", b"-1\ta\n"])
def test_a_damaged_index_is_told(tmp_path, line):
    with FeatureStoreWriter(tmp_path, 2) as writer:
        writer.add("a", np.zeros((3, 2), np.float32))
    (tmp_path / "index.tsv").write_bytes(line)
    with pytest.raises(CheckpointError, match="damaged"):
        FeatureStore(tmp_path)


# ---- moves


@pytest.mark.slow
def test_a_project_can_move_as_a_whole_and_a_base_alone(project, tmp_path, monkeypatch):
    moved = tmp_path / "new home"
    shutil.copytree(project / "stage1", moved / "stage1", ignore=shutil.ignore_patterns("checkpoints"))
    for base in ("whisper", "lm"):
        shutil.copytree(project / base, moved / base)
    hidden = project.with_name("hidden")
    project.rename(hidden)
    try:
        AistaForConditionalGeneration.from_pretrained(moved / "stage1")
        (moved / "lm").rename(moved / "elsewhere")
        with pytest.raises(CheckpointError, match=r"--base backbone=PATH"):
            AistaForConditionalGeneration.from_pretrained(moved / "stage1")
        monkeypatch.chdir(moved)
        monkeypatch.setenv("AISTA_BASES", "")
        sound = (hidden / "st_3.wav").as_posix()
        arguments = ["translate", sound, "--to", "en", "--model", "stage1", "--max-new-tokens", "2"]
        assert run(monkeypatch, *arguments) == 2
        assert run(monkeypatch, *arguments, "--base", "backbone=elsewhere") == 0
        assert run(monkeypatch, *arguments, "--base", "vocoder=elsewhere") == 2
    finally:
        hidden.rename(project)


# ---- caches that cannot be written


def test_without_a_folder_for_compiled_code_it_is_compiled_and_said(monkeypatch, capsys):
    from numba.core import caching

    for kind in (caching.CompileResultCacheImpl, caching.CodeLibraryCacheImpl):
        monkeypatch.setattr(kind, "_locator_classes", [])
    monkeypatch.setattr(kernels, "uncached", [])
    twice, thrice = kernels.outer(lambda x: 2 * x), kernels.outer(lambda x: 3 * x)
    assert (twice(2), thrice(2)) == (4, 6)
    assert capsys.readouterr().err.count("NUMBA_CACHE_DIR") == 1


def test_a_full_disk_under_compiled_code_stops_nothing(monkeypatch, capsys, tmp_path):
    from numba import config

    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(kernels, "uncached", [])
    fourfold = kernels.outer(lambda x: 4 * x)
    with no_file_larger_than(20):
        assert fourfold(2) == 8
    assert capsys.readouterr().err.count("NUMBA_CACHE_DIR") == 1


def test_a_full_disk_leaves_no_module_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the stand-in for a full disk itself: a module first imported meanwhile is whole for the next."""
    (tmp_path / "first_seen.py").write_text(f"x = {list(range(5_000))}")
    monkeypatch.syspath_prepend(str(tmp_path))
    with no_file_larger_than(100):
        importlib.import_module("first_seen")
    monkeypatch.delitem(sys.modules, "first_seen")
    assert importlib.import_module("first_seen").x[-1] == 4_999
