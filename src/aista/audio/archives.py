"""Files inside tar archives, named as if the archive were a folder: ``shards/st-000003.tar/000017.flac``."""

from __future__ import annotations

import tarfile
from functools import lru_cache
from pathlib import Path

from aista.errors import AudioError

_ARCHIVES_KEPT = 64  # whose tables of contents a process remembers: about 0.1 MB each


def archive_of(path: Path) -> Path | None:
    """Return the archive that a path leads into, or None."""
    return next((parent for parent in path.parents if parent.suffix == ".tar" and parent.is_file()), None)


def read_member(archive: Path, path: Path) -> bytes:
    """Return the content of a file in an archive.

    Args:
        archive: What :func:`archive_of` said.
        path: The whole path.

    Raises:
        AudioError: The archive is damaged, or there is no such file in it.

    Cost:
        The archive's headers are read once per process; then one seek and one read.
    """
    try:
        about = archive.stat()
        where = _contents(str(archive), about.st_size, about.st_mtime_ns).get(
            path.relative_to(archive).as_posix()
        )
        if where is None:
            raise AudioError(f"{path}: no such file in the archive.", advice="Was it written whole?")
        with open(archive, "rb") as file:
            file.seek(where[0])
            data = file.read(where[1])
    except (OSError, tarfile.TarError) as error:
        raise AudioError(f"{archive}: cannot be read as an archive.", got=str(error)) from None
    if len(data) < where[1]:
        raise AudioError(f"{path}: is cut off.", got=f"{len(data)} bytes", expected=f"{where[1]}")
    return data


@lru_cache(maxsize=_ARCHIVES_KEPT)
def _contents(archive: str, size: int, changed_ns: int) -> dict[str, tuple[int, int]]:
    """Return name -> (offset, size) of the files in an archive; a rewritten one is another.

    ``tar cf x.tar .`` names them ``./a.flac``: names are brought to the form of paths.
    """
    with tarfile.open(archive, "r:") as tar:
        files = [member for member in tar if member.isfile()]
        return {Path(each.name).as_posix(): (each.offset_data, each.size) for each in files}
