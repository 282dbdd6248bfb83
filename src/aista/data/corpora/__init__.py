"""The corpora that ``aista data prepare`` knows: one module each, found by its name.

A corpus module offers

* ``SPLITS``: the names of its splits;
* ``NOTE``: one or two sentences on why counts (and so scores) may differ from published ones;
* ``expected(split, **options) -> Expected``: how many rows and hours were published;
* ``rows(source, split, **options) -> Iterator[Utterance | LeftOut]``: the rows of a split, audio as a path
  from the working directory. It raises :class:`Absent` where the source does not hold the split;
* optionally ``MAX_SECONDS``: longer clips are left out; ``note(source, split, **options) -> str`` in place of
  ``NOTE``, where it depends on what was found.

A third party's corpus is named by its dotted module.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from aista import plugins
from aista.errors import ManifestError


@dataclass(frozen=True)
class Expected:
    """Published size of a split; ``None`` where nothing was published."""

    rows: int | None = None
    hours: float | None = None


@dataclass(frozen=True)
class LeftOut:
    """A row that does not become an utterance, and why."""

    id: str
    reason: str


class Absent(ManifestError):
    """The source does not hold this split."""


def names() -> list[str]:
    """Return the names of the built-in corpora."""
    return plugins.names(__name__)


def corpus(name: str) -> ModuleType:
    """Return a corpus module by its name, or by a dotted name outside this package.

    Raises:
        ConfigError: There is no such corpus.
    """
    return plugins.find(__name__, name, kind="corpus")
