"""Where the official weights are, and how to fetch them: named places, checked sizes and digests, mirrors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download

from aista.errors import CheckpointError, ConfigError
from aista.files import no_answer, sha256_of, write_whole

_ENDPOINT = "https://huggingface.co"
_AGAIN = "Delete it, and run the same command again."


@dataclass(frozen=True)
class File:
    """A file of a repository, and what it must be where that is known (size in bytes)."""

    name: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Place:
    """A repository that holds the weights.

    Attributes:
        files: The files to fetch; empty: everything that transformers needs of the repository.
        revision: A commit. None: the newest when it is fetched, whose commit is then reported.
        kind: ``model``, ``dataset`` or ``space``.
    """

    repository: str
    files: tuple[File, ...] = ()
    revision: str | None = None
    kind: str = "model"

    def url(self, file: str = "") -> str:
        """Return where a browser finds a file, or the repository."""
        prefix = {"model": "", "dataset": "datasets/", "space": "spaces/"}[self.kind]
        revision = self.revision or "main"
        path = f"/resolve/{revision}/{file}" if file else f"/tree/{revision}"
        return f"{_ENDPOINT}/{prefix}{self.repository}{path}"


@dataclass(frozen=True)
class Source:
    """One thing that can be downloaded, and every place that holds it, best first."""

    title: str
    gigabytes: float
    places: tuple[Place, ...]
    note: str = ""


_BEATS = File(
    "BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt",
    363_145_291,
    "e5815275a04b6885e7b8af63d120b29bffae2cd2225cf4915e1ec6d819d3022c",
)
_WHISPER = (
    File(
        "model.safetensors",
        6_173_370_152,
        "57a1ba2a82c093cabff2541409ae778c97145378b9ddfa722763cb1cb8f9020b",
    ),
    File("config.json"),
    File("preprocessor_config.json"),
    # The baseline cascade lets it write.
    File("generation_config.json"),
    File("tokenizer.json"),
    File("tokenizer_config.json"),
)
SOURCES: dict[str, Source] = {
    "whisper": Source(
        "Whisper-large-v2 (speech encoder)",
        6.2,
        (Place("openai/whisper-large-v2", _WHISPER, "ae4642769ce2ad8fc292556ccea8e901f1530655"),),
    ),
    "whisper-base": Source(
        "Whisper-base (speech encoder of base scale, 'aista translate --model base')",
        0.3,
        (Place("openai/whisper-base"),),
    ),
    "qwen2.5-coder-0.5b": Source(
        "Qwen2.5-Coder-0.5B-Instruct (language model of 'aista translate --model base')",
        1.0,
        (Place("Qwen/Qwen2.5-Coder-0.5B-Instruct"),),
    ),
    "beats": Source(
        "BEATs iter3+ (AS2M), fine-tuned on AS2M, cpt2 (audio encoder)",
        0.36,
        (
            Place("WeiChihChen/BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2", (_BEATS,)),
            Place("camenduru/beats", (_BEATS,)),
            Place(
                "fffiloni/SALMONN-7B-gradio",
                (replace(_BEATS, name=f"beats/{_BEATS.name}"),),
                "677c0125de736ab92751385e1e8664cd03c2ce0d",
                "space",
            ),
        ),
        "The links in BEATs' own README are dead; these are mirrors, and the digest decides.",
    ),
    "vicuna": Source(
        "Vicuna-13B v1.1 (language model of salmonn_v1.pth)", 26.0, (Place("lmsys/vicuna-13b-v1.1"),)
    ),
    "vicuna-7b": Source(
        "Vicuna-7B v1.5 (language model of SALMONN-7B)",
        13.5,
        (Place("lmsys/vicuna-7b-v1.5", revision="3321f76e3f527bd14065daf69dad9344000a201d"),),
    ),
    "qwen2": Source(
        "Qwen2-7B (the paper's second language model)",
        15.2,
        (Place("Qwen/Qwen2-7B", revision="453ed1575b739b5b03ce3758b23befdb0967f40e"),),
    ),
    "salmonn": Source(
        "SALMONN-13B v1 (trained part)",
        0.4,
        (Place("tsinghua-ee/SALMONN", (File("salmonn_v1.pth"),)),),
        "Then: aista import salmonn salmonn_v1.pth --whisper … --beats … --llm … --out DIR",
    ),
    "salmonn-7b": Source(
        "SALMONN-7B v0 (trained part)", 0.4, (Place("tsinghua-ee/SALMONN-7B", (File("salmonn_7b_v0.pth"),)),)
    ),
}
# Of a whole repository: what transformers reads, and of two formats of the same weights only safetensors.
_NEEDED = (".json", ".safetensors", ".model", ".txt", ".bin", ".jinja")


def source(name: str) -> Source:
    """Return a download by name.

    Raises:
        ConfigError: There is none of this name.
    """
    if name not in SOURCES:
        raise ConfigError("Nothing of this name can be downloaded.", got=name, expected=", ".join(SOURCES))
    return SOURCES[name]


def verify(path: Path, file: File) -> None:
    """Demand a file's known size and digest.

    Raises:
        CheckpointError: It is another file, or not whole.
    """
    size, found = path.stat().st_size, f"{path}: "
    if file.size not in (None, size):
        found += f"{size:,} bytes"
        raise CheckpointError(
            "A downloaded file has the wrong size.", got=found, expected=f"{file.size:,} bytes", advice=_AGAIN
        )
    if file.sha256 is not None and (digest := sha256_of(path)) != file.sha256:
        found += digest
        raise CheckpointError(
            "A downloaded file has other content.", got=found, expected=file.sha256, advice=_AGAIN
        )


def download(name: str, to: str | Path | None = None, tell: Callable[[str], None] = lambda _: None) -> Path:
    """Fetch weights, from the first place that has them; what is here and whole is not fetched again.

    Args:
        name: A key of ``SOURCES``.
        to: Folder; ``models/NAME`` by default. An interrupted download goes on where it stopped.
        tell: Called with a line about every file.

    Returns:
        The path to give as a base: the folder, or the one file.

    Raises:
        ConfigError: The name is unknown.
        CheckpointError: No place gave it (the message says where to put which file by hand), or a file is not
            what it should be.
    """
    wanted, folder = source(name), Path(to or Path("models") / name)
    record = folder / ".cache" / f"aista-{name}.json"  # in a folder of its own: it is no part of a model
    if (here := _already_here(wanted, folder, record)) is not None:
        tell(f"{here} is here already, every size and digest that is known was checked")
        return here
    failures: list[str] = []
    for place in wanted.places:
        try:
            return _fetch(place, folder, tell, record)
        except no_answer() as error:
            failures.append(f"{place.repository}: {type(error).__name__}")
            tell(f"{place.repository} did not give it ({type(error).__name__})")
    raise CheckpointError(
        f"{wanted.title} could not be downloaded.", got="; ".join(failures), advice=by_hand(wanted, folder)
    )


def by_hand(wanted: Source, folder: Path) -> str:
    """Say how to do without a network here: from which address to which path."""
    lines = ["on a machine with a network, fetch"]
    for number, place in enumerate(wanted.places):
        names = [file.name for file in place.files]
        lines += ["  or, from another place,"] if number else []
        lines += [f"    {place.url(name)}" for name in names] or [f"    every file of {place.url()}"]
    files = wanted.places[0].files
    one = len(files) == 1
    target = f"put it at {folder / Path(files[0].name).name}" if one else f"put all of it into {folder}"
    return "\n".join([*lines, f"  and {target}"])


def _already_here(wanted: Source, folder: Path, record: Path) -> Path | None:
    """The weights, if every file is in the folder, and whole; None where no digest is known or recorded."""
    files = wanted.places[0].files
    if not any(file.sha256 for file in files) and record.is_file():
        files = tuple(File(**row) for row in json.loads(record.read_text(encoding="utf-8")))
    paths = [folder / Path(file.name).name for file in files]
    if not any(file.sha256 for file in files) or not all(path.is_file() for path in paths):
        return None
    for path, file in zip(paths, files, strict=True):
        verify(path, file)
    return paths[0] if len(paths) == 1 else folder


def _fetch(place: Place, folder: Path, tell: Callable[[str], None], record: Path) -> Path:
    """Fetch one place's files; without known digests, the hub's own are taken, and what came is recorded."""
    commit, files = place.revision, place.files
    if not files or not all(file.sha256 for file in files):
        commit, files = _ask(place)
    paths = []
    for file in files:
        tell(f"{place.repository}@{(commit or 'main')[:12]}: {file.name}")
        got = hf_hub_download(
            place.repository, file.name, revision=commit, repo_type=place.kind, local_dir=folder
        )
        path = folder / Path(file.name).name
        if Path(got) != path:
            Path(got).replace(path)
        verify(path, file)
        paths.append(path)
    if not any(file.sha256 for file in place.files):
        rows = [
            asdict(File(path.name, path.stat().st_size, file.sha256 or sha256_of(path)))
            for path, file in zip(paths, files, strict=True)
        ]
        write_whole(record, json.dumps(rows, indent=1))
    return paths[0] if len(paths) == 1 else folder


def _ask(place: Place) -> tuple[str, tuple[File, ...]]:
    """Ask the hub for the commit, and for size and digest of every file that is wanted."""
    info: Any = HfApi().repo_info(
        place.repository, revision=place.revision, repo_type=place.kind, files_metadata=True
    )
    found = {entry.rfilename: entry for entry in info.siblings or []}
    given = {file.name: file for file in place.files}
    names = list(given) or [name for name in found if name.endswith(_NEEDED) and "/" not in name]
    if not given and any(name.endswith(".safetensors") for name in names):
        names = [name for name in names if ".bin" not in name]
    files = []
    for name in names:
        if name not in found:
            raise FileNotFoundError(f"{place.repository} has no {name}")
        entry, file = found[name], given.get(name, File(name))
        digest = entry.lfs.sha256 if entry.lfs else None
        files.append(File(name, file.size or entry.size, file.sha256 or digest))
    return str(info.sha), tuple(files)
