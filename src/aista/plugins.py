"""Modules found by their names: a file of a package is one method, backbone family, corpus, format or system.

A name with a dot is the module of another project: nothing of ours has to be edited for it.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Collection, Mapping
from types import ModuleType
from typing import Any

from aista.errors import ConfigError

_SWITCHES = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}


def names(package: str, hidden: Collection[str] = (), table: Collection[str] = ()) -> list[str]:
    """Return the names of a package's plugins, in order.

    Args:
        package: Dotted name of the package.
        hidden: Modules of it that are no plugins.
        table: Names of plugins that have no module of their own.
    """
    folders = importlib.import_module(package).__path__
    modules = {module.name for module in pkgutil.iter_modules(folders)}
    return sorted((modules - set(hidden)) | set(table))


def find(
    package: str,
    name: str,
    *,
    kind: str,
    hidden: Collection[str] = (),
    table: Mapping[str, Any] | None = None,
) -> Any:
    """Return the module of a name, or what a table of small ones holds under it.

    Args:
        package: Dotted name of the package that holds the built-in ones.
        name: A module of that package, or the dotted path of a module elsewhere.
        kind: What it is, for messages: "alignment method".
        hidden: Modules of the package that are no plugins.
        table: Plugins that have no module of their own, by name.

    Raises:
        ConfigError: There is no such module, or it needs a package that is not installed.
    """
    table = table or {}
    if name in table:
        return table[name]
    known = names(package, hidden, table)
    expected = f"{', '.join(known)}, or the dotted path of a module (on the PYTHONPATH)"
    if name.startswith(".") or ("." not in name and name not in known):  # ./my_method.py is no dotted path
        raise ConfigError(f"There is no {kind} {name!r}.", expected=expected)
    dotted = name if "." in name else f"{package}.{name}"
    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if dotted == missing or dotted.startswith(f"{missing}."):
            raise ConfigError(f"There is no {kind} {name!r}.", got=str(error), expected=expected) from None
        needed, own = missing.split(".")[0], dotted.split(".")[0]
        advice = f"pip install {needed}" if needed != own else None
        raise ConfigError(f"The {kind} {name!r} needs {missing}.", advice=advice) from None


def member(module: ModuleType, name: str, *, kind: str) -> Any:
    """Return what a plugin's module has to define.

    Raises:
        ConfigError: It does not define it.
    """
    try:
        return getattr(module, name)
    except AttributeError:
        raise ConfigError(
            f"{module.__name__} is no {kind}.",
            got=f"no {name} in it",
            expected=f"a module that defines {name}",
        ) from None


def options_of(made: Callable[..., Any], options: dict[str, Any], *, kind: str) -> dict[str, Any]:
    """Check options against the parameters of what they are for, and read switches as people write them.

    Args:
        made: A class or function; a parameter's default says whether it is a switch or a number.
        options: Keyword arguments for it. A switch may be ``yes``, ``no``, ``on`` or ``off``.

    Returns:
        The options, switches as bool.

    Raises:
        ConfigError: An option does not exist, is missing, or is of another kind than its default.
    """
    parameters = inspect.signature(made).parameters
    try:
        inspect.signature(made).bind_partial(**options)
    except TypeError as error:
        expected = ", ".join(name for name in parameters if name not in ("layers", "sizes")) or "none"
        raise ConfigError(f"{kind} does not take these options.", got=str(error), expected=expected) from None
    return {name: _checked(name, value, parameters.get(name), kind) for name, value in options.items()}


def _checked(name: str, value: Any, parameter: inspect.Parameter | None, kind: str) -> Any:
    default = parameter.default if parameter is not None else None
    if isinstance(default, bool):
        switch = _SWITCHES.get(value.strip().lower()) if isinstance(value, str) else value
        if not isinstance(switch, bool):
            raise ConfigError(f"{kind}: {name} is a switch.", got=repr(value), expected="true or false")
        return switch
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, int | float) and value is not None and not number:
        raise ConfigError(f"{kind}: {name} is a number.", got=repr(value), expected=f"such as {default}")
    return value
