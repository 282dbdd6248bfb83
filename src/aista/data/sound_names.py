"""Names of sounds by what is in their files: the same wherever a corpus lies and whatever it is called."""

from __future__ import annotations

import hashlib
import os
import re
from functools import partial
from pathlib import Path

from aista.audio.archives import archive_of, read_member
from aista.errors import AudioError

MEMO = "sounds.tsv"
_BLAKE2B = partial(hashlib.blake2b, digest_size=16)
_LINE = re.compile(r"(\d+)\t(\d+)\t([0-9a-f]{32})\t([^\t\n]+)")


class SoundNames:
    """The BLAKE2b hash of audio files, remembered by path, size and time of change.

    A file is read whole once; afterwards, as long as it lies where it lay and was not written again, asking
    for its name costs one ``stat``. After a move every file is read once more: much less than encoding it.

    Args:
        folder: Where the memo lies, a line per file in ``sounds.tsv``; None: it is kept in memory alone.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self._known: dict[str, tuple[int, int, str]] = {}
        self._new: list[str] = []
        if self.folder is not None and (self.folder / MEMO).exists():
            self._read(self.folder / MEMO)

    def __reduce__(self) -> tuple[type[SoundNames], tuple[Path | None]]:
        return SoundNames, (self.folder,)

    def _read(self, memo: Path) -> None:
        for line in memo.read_text(encoding="utf-8", errors="replace").split("\n"):
            if found := _LINE.fullmatch(line):
                size, changed, digest, path = found.groups()
                self._known[path] = (int(size), int(changed), digest)

    def __getitem__(self, path: str | os.PathLike[str]) -> str:
        """Return the name of a file: 32 hexadecimal digits.

        Raises:
            AudioError: The file is missing or cannot be read.
        """
        name = os.fspath(path)
        try:
            archive = archive_of(Path(name)) if ".tar/" in name else None
            about = os.stat(archive or name)
            size, changed, digest = self._known.get(name, (-1, -1, ""))
            if (size, changed) != (about.st_size, about.st_mtime_ns):
                if archive is not None:
                    digest = _BLAKE2B(read_member(archive, Path(name))).hexdigest()
                else:
                    with open(name, "rb") as file:
                        digest = hashlib.file_digest(file, _BLAKE2B).hexdigest()
                self._known[name] = (about.st_size, about.st_mtime_ns, digest)
                self._new.append(f"{about.st_size}\t{about.st_mtime_ns}\t{digest}\t{name}\n")
        except OSError as error:
            raise AudioError(f"{name}: cannot be read.", got=error.strerror) from None
        except ValueError as error:
            raise AudioError(f"{name!a}: no file can have this name.", got=str(error)) from None
        return digest

    def save(self) -> None:
        """Append what is new to the memo, in one write: processes side by side do not mix their lines."""
        if self.folder is None or not self._new:
            return
        lines = "".join(line for line in self._new if _LINE.fullmatch(line[:-1]))  # no path with a tab
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / MEMO, "ab", buffering=0) as memo:
            memo.write(lines.encode("utf-8", errors="replace"))
        self._new.clear()
