"""Measure the size of the package and the length of two walks through it.

    python tools/house.py                 sizes of the working tree
    python tools/house.py --at COMMIT     sizes at another commit
    python tools/house.py --walks         files that run between two ends: audio -> translation, row -> loss

A function counts as called once when its name stands as a call at exactly one place of the package (a test
or another project may call it too). A walk counts each module of the package in which a function ran; what
runs while modules are imported is not counted, nor are settings and errors read before the walk starts.
"""

from __future__ import annotations

import argparse
import ast
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "aista"
NUMBA = ("inner", "inner_sum", "outer")  # the compilers of aista.ot.kernels


@dataclass(frozen=True)
class Function:
    """One function of the package, as its source says."""

    name: str
    lines: int
    parameters: int
    exempt: (
        bool  # a numba kernel or a verb of the command line, whose parameters are its arguments or options
    )


def functions(path: str, text: str) -> Iterator[Function]:
    """Yield every function of a module."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            named = [row for row in arguments if row.arg not in ("self", "cls")]
            jitted = any(ast.unparse(row) in NUMBA for row in node.decorator_list)
            body = [row for row in node.body if not _is_docstring(row)]
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            yield Function(node.name, lines, len(named), jitted or "/cli/" in path)


def _is_docstring(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def called_names(text: str) -> Iterator[str]:
    """Yield the name of everything that a module calls."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield node.func.id
            elif isinstance(node.func, ast.Attribute):
                yield node.func.attr


def sizes(sources: dict[str, str]) -> dict[str, Any]:
    """Return the figures of a package.

    Args:
        sources: Path within the package -> text of the module.
    """
    lines = {path: text.count("\n") for path, text in sources.items()}
    rooms: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for path, count in lines.items():
        room = path.split("/")[0] if "/" in path else "(top)"
        rooms[room] += count
        files[room] += 1
    every = [row for path, text in sources.items() for row in functions(f"/{path}", text)]
    calls = Counter(name for text in sources.values() for name in called_names(text))
    open_to_all = [row for row in every if not row.exempt]
    return {
        "lines": sum(lines.values()),
        "files": len(lines),
        "median file": statistics.median(count for path, count in lines.items() if "__init__" not in path),
        "largest file": max(lines.values()),
        "functions": len(every),
        "more than 5 parameters": sum(row.parameters > 5 for row in open_to_all),
        "more than 7 parameters": sum(row.parameters > 7 for row in open_to_all),
        "called once, at most 8 lines": sum(calls[row.name] == 1 and row.lines <= 8 for row in every),
        "rooms": {room: (rooms[room], files[room]) for room in sorted(rooms, key=rooms.get, reverse=True)},
    }


def working_tree() -> dict[str, str]:
    """Return the package's modules as they lie here."""
    return {str(path.relative_to(PACKAGE)): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


def at_commit(commit: str) -> dict[str, str]:
    """Return the package's modules at a commit."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    paths = git("ls-tree", "-r", "--name-only", commit, "src/aista").split()
    return {
        path.removeprefix("src/aista/"): git("show", f"{commit}:{path}")
        for path in paths
        if path.endswith(".py")
    }


# ---- walks ----


@contextmanager
def traced() -> Iterator[list[str]]:
    """Collect the package's modules in which a function is called, in the order of their first call."""
    seen: dict[str, None] = {}

    def look(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        ours = event == "call" and code.co_filename.startswith(str(PACKAGE))
        if ours and not _importing(frame):
            seen.setdefault(str(Path(code.co_filename).relative_to(PACKAGE)))

    found: list[str] = []
    sys.setprofile(look)
    try:
        yield found
    finally:
        sys.setprofile(None)
        found += seen


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_code.co_filename.startswith(str(PACKAGE)):
            return True
        frame = frame.f_back
    return False


def walk(run: Callable[[], object]) -> list[str]:
    """Return the modules that run between the ends of a call."""
    with traced() as found:
        run()
    return found


def audio_to_translation(folder: Path) -> list[str]:
    """Walk from a sound file to its translation, with the model that the package ships."""
    import numpy as np
    import soundfile

    import aista

    path = folder / "clip.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.05, 16_000).astype("float32"), 16_000)
    translator = aista.load()
    translator.vad = False  # the sound of this walk is no speech
    return walk(lambda: translator.translate(path, target="zh"))


def row_to_loss(folder: Path) -> list[str]:
    """Walk from two rows of a manifest to the loss of Eq. 6 and its gradient, with the demo's stage 1."""
    import json

    import numpy as np
    import soundfile

    from aista.config import JointSettings
    from aista.speech_llm import SpeechLM
    from aista.training.stages import _data, aligned

    row = {"text": "A bell.", "tgt_lang": "zh", "translation": "一口钟。", "task": "st"}
    lines = []
    for number in range(2):
        sound = np.random.default_rng(number).normal(0, 0.05, 16_000).astype("float32")
        soundfile.write(folder / f"u{number}.wav", sound, 16_000)
        lines.append(json.dumps({"id": f"u{number}", "audio": f"u{number}.wav", **row}) + "\n")
    manifest = folder / "st.jsonl"
    manifest.write_text("".join(lines), encoding="utf-8")
    values = {"output": str(folder / "joint"), "init": "aista:stage1", "data": {"train": [str(manifest)]}}
    train = {"max_steps": 1, "warmup_steps": 0, "save_steps": 1, "eval_steps": None, "patience": None}
    settings = JointSettings.of({**values, "train": train, "alignment": {"layers": [0, 1]}})
    model, processor = stage_one(settings.init)
    objective = aligned(SpeechLM(model, processor), settings.alignment, seed=settings.seed).train()
    data = _data(settings, objective)

    def step() -> None:
        batch = data.collator([data.train[0], data.train[1]])
        objective(speech=batch["speech"], text=batch["text"]).loss.backward()

    return walk(step)


def stage_one(source: str) -> tuple[Any, Any]:
    """Load a model folder and its processor."""
    from aista.model.processing import AistaProcessor
    from aista.model.speech_lm import AistaForConditionalGeneration

    return AistaForConditionalGeneration.from_pretrained(source), AistaProcessor.from_pretrained(source)


def walks() -> dict[str, list[str]]:
    """Return both walks."""
    with tempfile.TemporaryDirectory() as folder:
        return {
            "audio to translation": audio_to_translation(Path(folder)),
            "manifest row to loss": row_to_loss(Path(folder)),
        }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--at", metavar="COMMIT", help="measure this commit instead of the working tree")
    parser.add_argument("--walks", action="store_true", help="run the two walks and list their files")
    options = parser.parse_args()
    found = sizes(at_commit(options.at) if options.at else working_tree())
    for name, value in found.items():
        if name != "rooms":
            print(f"{name:32} {value:>8,}")
    for room, (lines, files) in found["rooms"].items():
        print(f"  {room:30} {lines:>8,} lines {files:>4} files")
    if options.walks:
        for name, files in walks().items():
            print(f"{name}: {len(files)} files")
            for file in files:
                print(f"  {file}")


if __name__ == "__main__":
    main()
