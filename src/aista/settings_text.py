"""Settings as people write them: YAML 1.2's plain values, no key twice, and ``key=value`` of a command line.

PyYAML reads YAML 1.1, where ``1e-5`` is a text, ``010`` is eight, ``1:30`` is ninety and ``no`` is false.
Here a plain value is what it looks like: ``1e-5`` and ``010`` are numbers, ``1:30`` and ``no`` are texts (a
field that is a switch still understands ``no``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from aista.errors import ConfigError

_MOST_VALUES, _DEEPEST = 100_000, 50
_QUOTES = "Put texts that begin or end with a special sign in quotes."


class _Loader(yaml.SafeLoader):
    """PyYAML's loader with the core schema of YAML 1.2, and the rule that no key stands twice."""

    yaml_implicit_resolvers: dict[str, Any] = {}
    yaml_constructors: dict[Any, Any] = {None: yaml.SafeLoader.construct_undefined}

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], Node] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                raise _wrong("a key must be a word", key)
            first = seen.setdefault((key.tag, key.value), key)
            if first is not key:
                line = first.start_mark.line + 1
                raise _wrong(f"the key {key.value!r} stands here and in line {line}", key)
        return node

    def null(self, node: Any) -> None:
        return None

    def switch(self, node: Any) -> bool:
        if node.value.lower() not in ("true", "false"):
            raise _wrong("neither true nor false", node)
        return node.value.lower() == "true"

    def integer(self, node: Any) -> int:
        text = node.value.replace("_", "")
        base = {"0o": 8, "0x": 16}.get(text[:2].lower(), 10)
        try:
            return int(text, base)
        except ValueError:
            raise _wrong("no whole number", node) from None

    def number(self, node: Any) -> float:
        try:
            value = float(re.sub(r"_|\.(?=inf|nan)", "", node.value.lower()))
        except ValueError:
            raise _wrong("no number", node) from None
        if not math.isfinite(value):
            raise _wrong("a number must be finite", node)
        return value

    def text(self, node: Any) -> str:
        try:  # JSON writes what lies beyond 16 bits as two halves
            return node.value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise _wrong("this text cannot be encoded", node) from None


class _Wrong(yaml.MarkedYAMLError):
    """What our own rules refuse."""


def _wrong(what: str, node: Node) -> _Wrong:
    return _Wrong(problem=what, problem_mark=node.start_mark)


class _Dumper(yaml.SafeDumper):
    """PyYAML's writer; texts that either version of YAML would take for something else are quoted."""

    def text(self, value: str) -> ScalarNode:
        plain = value.isprintable()  # line ends of Unicode are lost in other quotes than the double ones
        return self.represent_scalar(_TAG + "str", value, style=None if plain else '"')


_TAG = "tag:yaml.org,2002:"
for _name, _construct in {
    "null": _Loader.null, "bool": _Loader.switch, "int": _Loader.integer, "float": _Loader.number,
    "str": _Loader.text, "seq": yaml.SafeLoader.construct_yaml_seq, "map": yaml.SafeLoader.construct_yaml_map,
}.items():  # fmt: skip
    _Loader.add_constructor(_TAG + _name, _construct)
for _name, _pattern, _first in (
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+(?:_[0-9]+)*|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
):
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), _first)


_Dumper.add_representer(str, _Dumper.text)


def read_settings(path: Path) -> dict[str, Any]:
    """Read a YAML file of settings.

    Raises:
        ConfigError: It cannot be read, is no YAML, has a key twice, or holds no ``key: value`` rows.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read the settings file {path}.", got=str(error)) from None
    values = _parsed(text, f"{path} cannot be read as settings.")
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path} does not hold settings.", got=type(values).__name__, expected="key: value rows"
        )
    return values


def as_yaml(values: dict[str, Any]) -> str:
    """Return plain values as YAML that ``read_settings`` reads as the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def override(values: dict[str, Any], text: str) -> None:
    """Set one ``dotted.key=value`` in place.

    The value is a plain one, a text in quotes, or a list or mapping in brackets. Anything else is taken as
    the text that it is: ``#``, ``@``, ``*``, ``%``, ``:`` and ``!`` have no meaning of their own here.

    Raises:
        ConfigError: It is no ``key=value``, or its brackets or quotes are broken.
    """
    key, equals, value = text.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigError(
            f"Cannot understand the override {text!r}.", expected="key=value, e.g. train.max_steps=100"
        )
    *parents, last = names
    place = values
    for number, name in enumerate(parents, start=1):
        inner = place.get(name)
        if inner is not None and not isinstance(inner, Mapping):
            raise ConfigError(
                f"Cannot apply the override {text!r}.",
                got=f"{'.'.join(names[:number])} is {inner!r}",
                expected="a section with keys of its own",
            )
        place[name] = dict(inner or {})
        place = place[name]
    value, failure = value.strip(), f"Cannot read the value of the override {text!r}."
    if value[:1] in ("[", "{", '"', "'"):
        place[last] = _parsed(value, failure, whole=True)
    else:
        tag = _Loader("").resolve(ScalarNode, value, (True, False))
        plain = ScalarNode(_TAG + "str" if value == "<<" else tag, value)
        place[last] = _parsed("", failure, plain=plain)


def _parsed(text: str, failure: str, *, plain: Node | None = None, whole: bool = False) -> Any:
    """Return the values of a YAML text, or of one plain value.

    Args:
        text: The text; not read where there is a plain value.
        failure: What is said if it cannot be read.
        plain: The plain value.
        whole: Whether nothing may stand behind the value, not even a comment.
    """
    try:
        loader = _Loader(text)
        root: Any = plain or loader.get_single_node()
        if root is None:
            return None
        if whole and (rest := text[root.end_mark.index :].strip()):
            raise yaml.YAMLError(f"{rest!r} stands behind the value")
        values = loader.construct_document(root)
        _check(values)
    except RecursionError:
        raise ConfigError(failure, got=f"more than {_DEEPEST} levels of values", advice=_QUOTES) from None
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        advice = None if isinstance(error, _Wrong) else _QUOTES
        raise ConfigError(failure, got=place + problem, advice=advice) from None
    return values


def _check(root: Any) -> None:
    """Refuse values that are nested in themselves, or would fill the memory when they are written out.

    Raises:
        YAMLError: They are.
    """
    stack, count = [(root, 0)], 0
    while stack:
        value, depth = stack.pop()
        count += 1
        if depth > _DEEPEST or count > _MOST_VALUES:
            raise yaml.YAMLError(f"more than {_MOST_VALUES:,} values, or more than {_DEEPEST} levels of them")
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        stack += [(each, depth + 1) for each in inner]
