"""Pages that need nothing outside themselves: templates of this package, filled with tables and figures."""

from __future__ import annotations

import base64
import difflib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

import aista
from aista.audio.files import as_flac
from aista.audio.rates import SAMPLE_RATE_HZ
from aista.evaluation.decode import TransportMap
from aista.experiments.results import Figure, Table
from aista.figures import NARROW, WIDE, charts, colour_variables, signed
from aista.text.prompts import language

PAPER_URL = "https://arxiv.org/abs/2503.10211"
README = "README.md"
_HTML_LANGUAGES = {"zh": "zh-Hans"}
_WORDS = {"ai_sta": "AI-STA", "wall": "by the clock", "total": "by the clock"}


@dataclass(frozen=True)
class Rendering:
    """One language's texts of a clip.

    Attributes:
        language: ISO code.
        reference: What is right.
        texts: System -> its translation.
        scores: System -> its sentence-level chrF2, where it is shown.
    """

    language: str
    reference: str
    texts: Mapping[str, str]
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Clip:
    """A recording to listen to, with what was made of it.

    Attributes:
        id: A name that is unique on the page.
        samples: float32 (n,), 16 kHz; None: the sound is gone, its texts are shown.
        source: What is said.
        note: Why it is shown, e.g. the test set it is from.
        renderings: Its translations.
        maps: System -> transport plan between its windows and the tokens of ``source``.
    """

    id: str
    samples: np.ndarray | None
    source: str
    note: str = ""
    renderings: Sequence[Rendering] = ()
    maps: Mapping[str, TransportMap] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return 0.0 if self.samples is None else len(self.samples) / SAMPLE_RATE_HZ


def render(template: str, **values: Any) -> str:
    """Return a page.

    Args:
        template: A file of ``templates``.
        values: What it names.
    """
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("aista.experiments"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    found.globals |= {
        "colour_variables": Markup(colour_variables()), "drawn": drawn, "drawn_plan": drawn_plan,
        "drawn_wave": drawn_wave, "downloads": downloads, "grid": grid, "language": language,
        "marked_difference": marked_difference, "paper_url": PAPER_URL, "sound_uri": sound_uri,
        "shared_notes": shared_notes, "drawings": charts.DRAWINGS, "zip": zip,
    }  # fmt: skip
    found.filters |= {
        "base64": lambda text: base64.b64encode(text.encode()).decode(),
        "seconds": seconds_text, "chance": chance_text, "signed": signed, "words": words,
        "html_language": lambda code: _HTML_LANGUAGES.get(code, code), "short": charts.short_title,
    }  # fmt: skip
    return found


def readme_from(folder: Path) -> str:
    """Return the address of the README as seen from a page of this checkout; empty for a page elsewhere."""
    checkout, here = Path(aista.__file__).resolve().parents[2], folder.resolve()
    inside = here.is_relative_to(checkout) and (checkout / README).exists()
    return os.path.relpath(checkout / README, here) if inside else ""


# ---- numbers and names in words ----


def chance_text(p: float) -> str:
    """Return ``p < 0.01`` or ``p = 0.02``."""
    return "p < 0.01" if p < 0.01 else f"p = {p:.2f}"


def seconds_text(seconds: float) -> str:
    """Return ``45 s``, ``2.5 min`` or ``2.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def words(name: str) -> str:
    """Return what a key is called on a page."""
    text = _WORDS.get(name, name)
    return text.replace("ai_sta", "AI-STA").replace("_", " ")


def marked_difference(text: str, reference: str, spaces: bool) -> Markup:
    """Return a text in which everything that is not in the reference is marked.

    Args:
        text: What a system said.
        reference: What is right.
        spaces: Compare words rather than characters.
    """
    if not text:
        return Markup('<span class="nothing">no answer</span>')
    # A word keeps the space behind it; where there are no spaces every letter counts.
    one, other = (
        re.findall(r"\S+ ?", " ".join(row.split())) if spaces else list(row) for row in (text, reference)
    )
    parts = []
    for kind, start, end, other_start, other_end in difflib.SequenceMatcher(
        None, one, other, False
    ).get_opcodes():
        piece = "".join(one[start:end])
        if kind == "equal":
            parts.append(escape(piece))
        elif piece:
            parts.append(Markup("<mark>{}</mark>").format(piece))
        else:
            missing = "".join(other[other_start:other_end]).strip()
            parts.append(Markup('<mark class="gap" title="missing: {}"></mark>').format(missing))
    return Markup("").join(parts)


# ---- drawings and sounds ----


def drawn(name: str, data: Mapping[str, Any]) -> Markup:
    """Return a drawing of ``aista.figures.charts`` wide and, for a phone, narrow; the page shows one."""
    draw = charts.DRAWINGS[name] if name in charts.DRAWINGS else getattr(charts, name)
    both = Markup('<div class="for-wide">{}</div><div class="for-narrow">{}</div>')
    return both.format(draw(data, WIDE).svg(), draw(data, NARROW).svg())


def drawn_wave(samples: np.ndarray) -> Markup:
    """Return the waveform of a clip, stretched to the room it has."""
    return Markup(str(charts.waveform(samples).svg()).replace("<svg ", '<svg preserveAspectRatio="none" ', 1))


def drawn_plan(clip: Clip, system: str, role: str = "", width: float | None = None) -> dict[str, Any]:
    """Return a clip's transport plan, and where it stands, for the line that runs with the sound.

    That is ``svg``, its ``width`` in pixels, ``seconds`` of its speech tokens, and in per cent of the picture
    ``left``, ``span``, ``top`` and ``tall`` of the plan.

    Args:
        role: Its colour; empty: the system's.
        width: Of the picture at most, and then the speech tokens share the clip's length among them; by
            default each has the length that the plan says.
    """
    plan = clip.maps[system]
    n, samples = len(plan.plan), np.zeros(1, np.float32) if clip.samples is None else clip.samples
    each = round(plan.token_seconds * SAMPLE_RATE_HZ) if width is None else -(-len(samples) // n)
    values = {
        "plan": plan.plan, "tokens": plan.tokens, "role": role or charts.role_of(system), "samples": samples,
        "samples_per_token": each, "label": f"transport plan of {words(system)} for: {clip.source}",
    }  # fmt: skip
    canvas = charts.transport_plan(values, width)
    return {
        "svg": canvas.svg(),
        "width": canvas.width,
        "seconds": n * each / SAMPLE_RATE_HZ,
        "left": 100 * charts.GUTTER / canvas.width,
        "span": 100 * n * charts.plan_cell(n, width) / canvas.width,
        "top": 100 * charts.WAVE / canvas.height,
        "tall": 100 * (canvas.height - charts.WAVE - 26) / canvas.height,
    }


def sound_uri(samples: np.ndarray) -> str:
    """Return a ``data:`` address that holds the samples as FLAC, half the size of WAV."""
    return "data:audio/flac;base64," + base64.b64encode(as_flac(samples)).decode()


# ---- tables and figures ----


def grid(table: Table) -> list[tuple[str, bool]]:
    """Return the columns of a table: name, and whether the paper has values in it."""
    return list(zip(table.columns, table.beside(), strict=True))


def shared_notes(tables: Sequence[Table]) -> list[str]:
    """Return the notes that stand under more than one table, in order of appearance."""
    counts = Counter(note for table in tables for note in dict.fromkeys(table.notes))
    return [note for note, count in counts.items() if count > 1]


def downloads(result: Table | Figure) -> list[tuple[str, str, str]]:
    """Return (label, file name, address that holds the file) of a result's CSV and LaTeX."""
    files = [("CSV", f"{result.name}.csv", "text/csv", result.to_csv())]
    if isinstance(result, Table):
        files.append(("LaTeX", f"{result.name}.tex", "application/x-tex", result.to_latex()))
    return [
        (label, name, f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}")
        for label, name, kind, text in files
    ]
