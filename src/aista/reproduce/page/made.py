"""How the exhibits were made: command, machine, time, seeds, data, settings, versions, as HTML."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

_PAPER = "Adaptive Inner Speech-Text Alignment for LLM-based Speech Translation, arXiv 2503.10211"


def made(record: Mapping[str, Any]) -> str:
    """Return the section from what ``reproduce.json`` holds; a key that is missing is left out."""
    command = f"<pre>{escape(record['command'])}</pre>" if record.get("command") else ""
    hashes = "\n".join(f"{digest}  {name}" for name, digest in record.get("data_sha256", {}).items())
    versions = "\n".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
    listings = {
        **{f"settings: {name}": text for name, text in record.get("settings", {}).items()},
        "data, sha256": hashes,
        "versions": versions,
    }
    details = "".join(
        f"<details><summary>{_words(name)}</summary><pre>{escape(text)}</pre></details>"
        for name, text in listings.items()
        if text
    )
    return command + _facts(record) + _times(record.get("seconds", {})) + details


def _facts(record: Mapping[str, Any]) -> str:
    machine = record.get("machine", {})
    gpus = ", ".join(machine.get("gpus", []))
    facts = {
        "machine": " · ".join(
            filter(
                None,
                [
                    str(machine.get("cpu", "")),
                    f"{machine['cores']} cores" if machine.get("cores") else "",
                    f"{machine['ram_gb']} GB" if machine.get("ram_gb") else "",
                    gpus,
                    str(machine.get("system", "")),
                ],
            )
        ),
        "side by side": f"{machine['workers']} runs" if machine.get("workers") else "",
        "seeds": ", ".join(map(str, record.get("seeds", []))),
        "from, to": " to ".join(filter(None, [record.get("started", ""), record.get("finished", "")])),
    }
    rows = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts.items() if text)
    return f'<dl class="findings facts">{rows}</dl>' if rows else ""


def _times(seconds: Mapping[str, float]) -> str:
    spent = {name: value for name, value in seconds.items() if value and name not in ("total", "wall")}
    if not spent:
        return ""
    total = sum(spent.values())
    bars = "".join(
        f'<i style="flex:{value / total:.4f};--o:{0.85 - 0.13 * (i % 5):.2f}" title="{_words(name)}: '
        f'{duration(value)}"></i>'
        for i, (name, value) in enumerate(spent.items())
    )
    listed = {**spent, **{name: seconds[name] for name in ("wall", "total") if seconds.get(name)}}
    times = "".join(f"<div><dt>{_words(n)}</dt><dd>{duration(v)}</dd></div>" for n, v in listed.items())
    return f'<div class="timeline" aria-hidden="true">{bars}</div><dl class="times">{times}</dl>'


def _words(name: str) -> str:
    words = {"wall": "by the clock", "total": "together"}.get(name, name)
    return escape(words.replace("ai_sta", "AI-STA").replace("_", " "))


def duration(seconds: float) -> str:
    """Write a duration as people say it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def footer(record: Mapping[str, Any]) -> str:
    """Return the last lines of the page."""
    version = record.get("versions", {}).get("aista", "")
    return f"{escape(f'aista {version}'.strip())}<br>The method: <cite>{_PAPER}</cite>."
