"""Plugins are found by the name of their file, and their options are what people mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from aista import alignment, baselines, plugins
from aista.data import corpora
from aista.errors import ConfigError

PACKAGES = (alignment, baselines)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_name_is_a_file_of_its_package(package: object) -> None:
    folder = Path(package.__file__).parent  # type: ignore[attr-defined]
    found = package.names()  # type: ignore[attr-defined]
    assert found
    assert all((folder / f"{name}.py").is_file() for name in found)


def test_an_unknown_name_is_told_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"(?s)no corpus 'atlantis'.*librispeech"):
        corpora.corpus("atlantis")


@pytest.mark.parametrize("name", ["./my_method.py", ".mine", "mine/my_method.py"])
def test_the_path_of_a_file_is_no_name(name: str) -> None:
    with pytest.raises(ConfigError, match=r"(?s)no alignment method.*dotted path of a module"):
        alignment.method(name)


def test_a_package_that_a_plugin_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "needy.py").write_text("import no_such_package_anywhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="needs no_such_package_anywhere"):
        plugins.find("aista.alignment", "elsewhere.needy", kind="method")
    (tmp_path / "elsewhere" / "torn.py").write_text("import elsewhere.other_half\n")
    with pytest.raises(ConfigError, match=r"needs elsewhere\.other_half\.$"):  # which no pip installs
        plugins.find("aista.alignment", "elsewhere.torn", kind="method")
    with pytest.raises(ConfigError, match=r"no method 'elsewhere.absent'"):
        plugins.find("aista.alignment", "elsewhere.absent", kind="method")


@pytest.mark.parametrize(("written", "meant"), [("no", False), ("off", False), ("Yes", True), (True, True)])
def test_a_switch_of_an_open_option_is_what_people_mean(written: object, meant: bool) -> None:
    made = alignment.alignment("contrastive", (0,), normalise=written)
    assert made.normalise is meant


@pytest.mark.parametrize(
    "options",
    [
        {"normalise": "maybe"},
        {"normalise": 0},
        {"temperature": "warm"},
        {"temperature": True},
        {"temprature": 1},
    ],
)
def test_an_option_of_another_kind_is_refused_by_name(options: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        alignment.alignment("contrastive", (0,), **options)
