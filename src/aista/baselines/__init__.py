"""Systems to compare with: one module a system, found by its name, each a ``SpeechTranslator``.

A system is a module of this package (or a dotted path to a third party's) that defines ``System``, a subclass
of :class:`~aista.baselines.base.Baseline`. Nothing else has to be edited for a new one. What cannot be run,
because no code or weights are public, has its published numbers in ``base.REPORTED``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aista import plugins
from aista.errors import ConfigError

if TYPE_CHECKING:
    from aista.baselines.base import Baseline

__all__ = ["baseline", "names"]


def names() -> list[str]:
    """Return the name of every system in this package that can be run."""
    return plugins.names(__name__, hidden=("base",))


def baseline(
    name: str, *, generation: dict[str, Any] | None = None, device: str | None = None, **options: Any
) -> Baseline:
    """Load a system by name.

    Args:
        name: One of ``names()``, or the dotted path of a module that defines ``System``.
        generation: Search settings that differ from the system's own, e.g. ``{"num_beams": 4}``.
        device: Where it runs; by default a GPU where there is one.
        options: The system's, see its module.

    Raises:
        ConfigError: There is no such system, it cannot be run, or it does not take these options.
        CheckpointError: Its weights are not to be had.
    """
    from aista.baselines.base import note

    if "." not in name and name not in names():
        raise ConfigError(
            f"There is no system {name!r} to run.",
            got=note(name),
            expected=f"{', '.join(names())}, or the dotted path of a module that defines System",
        )
    system = plugins.member(plugins.find(__name__, name, kind="system"), "System", kind="system")
    kind = f"The system {name!r}"
    if system.options is None:
        given = options if device is None else {**options, "device": device}
        return system(generation=generation, **plugins.options_of(system, given, kind=kind))
    chosen = system.options(**plugins.options_of(system.options, options, kind=kind))
    return system(chosen, generation=generation, device=device)
