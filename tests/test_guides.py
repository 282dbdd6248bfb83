"""What README and guides tell a reader to type is understood: verbs, options, settings, imports."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import typer

import aista
from aista import retrieval
from aista.audio import write_audio
from aista.cli import main as cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]
# What stands for something of the reader's: a folder, a number, "and so on".
PLACEHOLDER = re.compile(r"…|\.\.\.|<[a-z]")


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a page in a language."""
    return re.findall(rf"```(?:{language})\n(.*?)```", page.read_text(encoding="utf-8"), re.S)


def commands(page: Path, mentioned: bool) -> Iterator[list[str]]:
    """Yield the words after ``aista`` of every command of a page: in its blocks, or mentioned in its text."""
    if mentioned:
        text = page.read_text(encoding="utf-8")
        lines = [" ".join(code.split()) for code in re.findall(r"(?<!`)`(aista [^`]+)`(?!`)", text)]
    else:
        typed = (block.replace("\\\n", " ") for block in blocks(page, "bash|sh|console"))
        lines = [line for block in typed for line in block.split("\n")]
    for line in lines:
        found = re.search(r"(?:^|[\s/|;&])(?:-m )?aista ([a-z].*)", line)
        if found and not PLACEHOLDER.search(found[1]):
            words = shlex.split(re.split(r" [|<>&;] ?| 2>", found[1])[0], comments=True)
            if len(words) > 1:  # a verb alone is named, not told to be typed
                yield words


def complaint(words: list[str]) -> str:
    """Parse a command as typer does, without running it; return what it says against it."""
    if not any(group.name == "data" for group in cli.app.registered_groups):
        cli._add_verbs()
    command: Any = typer.main.get_command(cli.app)
    while words and hasattr(command, "commands"):
        if words[:1] in (["--help"], ["--version"]) or (words[0].startswith("--install") and len(words) == 1):
            return ""
        if words[0] not in command.commands:
            return f"there is no verb {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    if {"--help", "-h"} & set(words):
        return ""
    try:
        with mock.patch.dict(os.environ):  # --base is told to the whole process
            command.make_context(command.name, list(words))
    except Exception as error:
        said = error.format_message() if hasattr(error, "format_message") else repr(error)
        return "" if "does not exist" in said else said  # a file that does not exist is the reader's
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_is_understood(page: Path) -> None:
    found = {" ".join(words): complaint(words) for words in commands(page, mentioned=False)}
    for words in commands(page, mentioned=True):  # what is mentioned may leave out what must be given
        said = complaint(words)
        found[" ".join(words)] = "" if said.startswith("Missing") else said
    assert not {command: said for command, said in found.items() if said}


def test_pages_hold_commands() -> None:
    assert sum(len(list(commands(page, mentioned=False))) for page in PAGES) > 25


def test_a_wrong_option_would_be_found() -> None:
    assert not complaint(["translate", "talk.wav", "--to", "zh"])
    assert "--tow" in complaint(["translate", "talk.wav", "--tow", "zh"])
    assert "tranlsate" in complaint(["tranlsate", "talk.wav"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_python_block_of_a_page_compiles_and_finds_what_it_imports(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aista"):
                module = importlib.import_module(str(node.module))
                for name in node.names:
                    if not hasattr(module, name.name):
                        importlib.import_module(f"{node.module}.{name.name}")


@pytest.mark.slow
def test_python_blocks_that_no_other_test_runs_do_run(tmp_path: Path, monkeypatch) -> None:
    """Of the pages on transport, and of those that need the shipped model and a recording alone."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    noise = [(rng.standard_normal(8_000) * 0.1).astype(np.float32) for _ in range(3)]
    write_audio("talk.wav", np.concatenate(noise))
    states, mask = torch.randn(2, 4, 8, requires_grad=True), torch.ones(2, 4, dtype=torch.bool)
    batch = {"speech": states, "speech_mask": mask, "text": states, "text_mask": mask}
    clouds = {side: [torch.randn(4, 8) for _ in range(6)] for side in ("speech", "text")}
    parts = [retrieval.exact_ranks(**clouds, queries=range(rank, 6, 2)) for rank in range(2)]
    layers = {name: states for name in ("s0", "s1", "t0", "t1")}
    ranks = {**clouds, "transcripts": [*"abcdef"], "rank": 0, "world": 2, "all_parts": parts}
    costs = {"cost": rng.random((4, 5)), "costs": [rng.random((3, 4)), rng.random((2, 6))]}
    guides = ROOT / "docs" / "guides"
    for page, taken_for_granted in (
        (guides / "transport.md", (costs, {**batch, **layers}, ranks, ranks)),
        (ROOT / "README.md", ({},)),
        (guides / "translate-and-evaluate.md", ({"paths": ["talk.wav", "gone.wav"]},)),
        (guides / "live-and-long.md", ({"translator": aista.load(), "microphone": noise},)),
    ):
        names: dict[str, Any] = {}
        for block, given in zip(blocks(page, "python"), taken_for_granted, strict=page.name != "README.md"):
            names |= given
            exec(compile(block, str(page), "exec"), names)


def told() -> Iterator[tuple[Path, str]]:
    """Yield every text in the code that is no docstring: what messages and help say. Values are X."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "X" for part in node.values]
                yield path, "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path, node.value


@pytest.mark.slow
def test_what_messages_and_help_tell_to_type_is_understood() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked, wrong = set[str](), list[str]()
    for path, text in told():
        asked |= set(re.findall(r"'aista ([a-z][^']*)'|^aista ([a-z].*?)(?:  +\(.*)?$", text, re.M))
        pages = [page for page in re.findall(r"docs/[\w/-]+\.md", text) if not (ROOT / page).exists()]
        extra = set(re.findall(r"'\.\[([\w-]+)\]'", text)) - set(extras["optional-dependencies"])
        wrong += [f"{path.name}: {what}" for what in (*pages, *extra)]
        if "huggingface-cli" in text:  # huggingface_hub 1 and later have hf alone
            wrong.append(f"{path.name}: {text}")
    for command in filter(None, (one or other for one, other in asked)):
        words = shlex.split(re.split(r" [|<>&;] ?| 2>", command)[0].rstrip("\\ "))
        said = complaint(words)
        if said and not said.startswith("Missing"):  # what is mentioned may leave out what must be given
            wrong.append(f"{command}: {said}")
    assert asked and not wrong


def anchors(page: Path) -> set[str]:
    """Return what GitHub lets a link to a heading of a page end in."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    shown = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in shown}


def test_every_link_leads_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.md")]
    dead, headings = list[str](), 0
    for page in pages:
        for path, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text(encoding="utf-8")):
            target = page.parent / path if path else page
            headings += bool(anchor)
            if ":" in path:
                continue
            if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
                dead.append(f"{page.relative_to(ROOT)}: {path}#{anchor}")
    assert len(pages) > 30 and headings > 20 and not dead


# A process for each script, as `python SCRIPT --help` has it; what most of them import is imported once.
STARTS = """
import os, runpy, sys
import aista.training.stages
for script in sys.argv[1:]:
    if not os.fork():
        sys.path[0], sys.argv = os.path.dirname(script), [script, "--help"]
        runpy.run_path(script, run_name="__main__")
    print("started" if os.wait()[1] == 0 else "failed", script, flush=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_script_starts_from_anywhere(tmp_path: Path) -> None:
    files = [*ROOT.glob("tools/*.py"), *ROOT.glob("benchmarks/*.py")]
    scripts = [str(path) for path in files if "ArgumentParser" in path.read_text(encoding="utf-8")]
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", STARTS, *scripts]
    done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)
    started = [line for line in done.stdout.split("\n") if line.startswith("started ")]
    assert len(started) == len(scripts) > 15, done.stderr
