"""What ``pip install .`` gives: the wheel, with what it requires and nothing else, used from elsewhere."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from aista.audio.files import write_audio
from tests.cli.test_help import VERBS

ROOT = Path(__file__).parents[1]
# Every verb, and every verb of a group, whose own page lists them.
PAGES = sorted({tuple(verb.split()[:count]) for verb in VERBS for count in (0, 1, 2)})

# Rooms that only their own extra opens; they are imported when they are asked for.
DOORS = ("aista.serve", "aista.data.importers.huggingface", "aista.inference.simulstream")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the tree without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "tree"
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    subprocess.run([*command, "--wheel-dir", str(folder), str(copy)], check=True, cwd=folder)
    return next(folder.glob("aista-*.whl"))


def required() -> set[str]:
    """Return every distribution that an installation without extras brings, by following the metadata."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        todo = list(map(Requirement, tomllib.load(file)["project"]["dependencies"]))
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        wanted = todo.pop()
        place = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if place in seen:
            continue
        seen.add(place)
        try:
            texts = importlib.metadata.requires(wanted.name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        for inner in map(Requirement, texts):
            cases = [{"extra": extra} for extra in wanted.extras or {""}]
            if inner.marker is None or any(map(inner.marker.evaluate, cases)):
                todo.append(inner)
    return {name for name, _ in seen}


@pytest.fixture(scope="module")
def plain(wheel: Path) -> Path:
    """An environment of the wheel and what it requires, linked from the environment of the tests."""
    folder = wheel.parent / "plain"
    venv.create(folder, with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    for name in required():
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            source = Path(str(importlib.metadata.distribution(name).locate_file(top)))
            if source.exists() and not (site / top).exists():
                (site / top).symlink_to(source)
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(folder),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*command, str(wheel)], check=True)
    return folder


def run(environment: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    return subprocess.run(
        [str(environment / "bin/aista"), *arguments],
        cwd=folder, env=clean, capture_output=True, text=True, check=False,
    )  # fmt: skip


def python(environment: Path, folder: Path, code: str) -> str:
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    command = [str(environment / "bin/python"), "-c", code]
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_what_only_extras_bring_is_not_there(plain: Path, tmp_path: Path) -> None:
    hidden = ("httpx", "fastapi", "av", "datasets", "webdataset", "tensorboard", "espeakng_loader", "pytest")
    code = f"import importlib.util as u; print([n for n in {hidden} if u.find_spec(n)])"
    assert python(plain, tmp_path, code).strip() == "[]"
    assert str(plain) in python(plain, tmp_path, "import aista; print(aista.__file__)")


@pytest.mark.slow
def test_every_page_of_help(plain: Path, tmp_path: Path) -> None:
    for page in PAGES:
        result = run(plain, tmp_path, *page, "--help")
        assert result.returncode == 0 and "Usage" in result.stdout, (page, result.stderr)


@pytest.mark.slow
def test_the_verbs_that_a_newcomer_starts_with(plain: Path, tmp_path: Path) -> None:
    check_newcomer(plain, tmp_path)


def check_newcomer(environment: Path, folder: Path) -> None:
    """``download`` (the list), ``doctor``, and a translation by the model in the wheel."""
    listed = run(environment, folder, "download")
    assert listed.returncode == 0 and "beats" in listed.stdout, listed.stderr
    looked = run(environment, folder, "doctor", "--json")
    assert looked.returncode in (0, 1) and '"checks"' in looked.stdout, looked.stderr  # 1: a full disk, say
    time = np.arange(32_000) / 16_000
    sound = 0.2 * np.sin(2 * np.pi * 220 * time) * np.sin(2 * np.pi * 3 * time)
    write_audio(folder / "clip.wav", sound.astype(np.float32))
    said = run(environment, folder, "translate", "clip.wav", "--to", "zh")
    assert said.returncode == 0 and "Traceback" not in said.stderr, said.stderr


@pytest.mark.slow
def test_every_module_names_only_what_it_requires(plain: Path, tmp_path: Path) -> None:
    """Modules import without the extras, but for those that are an extra's own door."""
    code = """
import importlib, pkgutil, aista
for module in pkgutil.walk_packages(aista.__path__, "aista."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        print(module.name, error.name)
"""
    missing = dict(line.split() for line in python(plain, tmp_path, code).splitlines())
    assert not {name: what for name, what in missing.items() if not name.startswith(DOORS)}


@pytest.fixture(scope="module")
def fetched(wheel: Path) -> Iterator[Path]:
    """A truly empty environment, filled by pip from its index, without extras and without constraints."""
    folder = wheel.parent / "fetched"
    venv.create(folder, with_pip=True)
    command = [str(folder / "bin/pip"), "install", "--quiet", "--no-cache-dir", str(wheel)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip(f"pip cannot fetch the requirements here: {result.stderr.strip()[-200:]}")
    yield folder
    shutil.rmtree(folder)


@pytest.mark.stress
@pytest.mark.timeout(1800)
def test_a_truly_empty_environment(fetched: Path, tmp_path: Path) -> None:
    test_every_page_of_help(fetched, tmp_path)
    check_newcomer(fetched, tmp_path)
