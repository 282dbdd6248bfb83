"""Pieces of a self-contained page: sounds that play, texts with their differences marked, tables."""

from __future__ import annotations

import base64
import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from string import Template

import numpy as np

from aista.audio.files import as_flac
from aista.audio.rates import SAMPLE_RATE_HZ, SAMPLES_PER_WINDOW
from aista.evaluation.charts import heat_map, waveform
from aista.evaluation.drawing import picture_style
from aista.evaluation.inside import TransportMap
from aista.text.languages import language

HTML_LANGUAGES = {"zh": "zh-Hans"}


@dataclass(frozen=True)
class Rendering:
    """One language's texts of a clip.

    Attributes:
        language: ISO code.
        reference: What is right.
        texts: System name -> what it said.
    """

    language: str
    reference: str
    texts: dict[str, str]


@dataclass(frozen=True)
class Clip:
    """A recording to listen to, with what was made of it.

    Attributes:
        id: A name that is unique on the page.
        samples: float32 (n,), 16 kHz.
        source: What is said.
        note: Why it is shown, e.g. the test set it is from.
        renderings: Its translations.
        maps: System name -> transport plan between its windows and the tokens of ``source``.
    """

    id: str
    samples: np.ndarray
    source: str
    note: str = ""
    renderings: Sequence[Rendering] = ()
    maps: dict[str, TransportMap] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return len(self.samples) / SAMPLE_RATE_HZ


def document(
    *,
    kicker: str,
    headline: str,
    lede: str,
    sections: Sequence[tuple[str, str, str]],
    footer: str,
    notice: str = "",
    style: str = "",
) -> str:
    """Return a whole page that needs nothing outside itself.

    Args:
        kicker: What kind of page it is, in two words.
        headline: Its heading, as text.
        lede: What it is about, as HTML.
        sections: (anchor, title, body as HTML) in order.
        footer: As HTML.
        notice: Text in a box at the head, e.g. that the numbers are made up.
        style: CSS of this page's own.
    """
    page = Template((files("aista.evaluation") / "look" / "page.html").read_text(encoding="utf-8"))
    bodies = (f'<section id="{name}"><h2>{title}</h2>{body}</section>' for name, title, body in sections)
    return page.substitute(
        kicker=escape(kicker),
        headline=escape(headline),
        lede=lede,
        banner=f'<p class="banner">{escape(notice)}</p>' if notice else "",
        navigation="".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections),
        sections="".join(bodies),
        footer=footer,
        picture=picture_style(),
        style=style,
    )


def sound_uri(samples: np.ndarray) -> str:
    """Return a ``data:`` address that holds the samples as FLAC, half the size of WAV."""
    return "data:audio/flac;base64," + base64.b64encode(as_flac(samples)).decode()


def marked_difference(text: str, reference: str, spaces: bool) -> str:
    """Return the text as HTML with everything that is not in the reference marked.

    Args:
        text: What a system said.
        reference: What is right.
        spaces: Compare words rather than characters.
    """
    if not text:
        return '<span class="nothing">no answer</span>'
    one, other = (_units(row, spaces) for row in (text, reference))
    parts = []
    for kind, start, end, other_start, other_end in difflib.SequenceMatcher(
        None, one, other, False
    ).get_opcodes():
        piece = escape("".join(one[start:end]))
        if kind == "equal":
            parts.append(piece)
        elif piece:
            parts.append(f"<mark>{piece}</mark>")
        else:
            missing = escape("".join(other[other_start:other_end]).strip(), quote=True)
            parts.append(f'<mark class="gap" title="missing: {missing}"></mark>')
    return "".join(parts)


def _units(text: str, spaces: bool) -> list[str]:
    if not spaces:
        return list(text)
    words = text.split()
    return [word + (" " if i < len(words) - 1 else "") for i, word in enumerate(words)]


def player(clip: Clip) -> str:
    """Return a sound with its waveform; without scripts the browser's own player is what shows."""
    return (
        f'<div class="player" data-clip="{escape(clip.id, quote=True)}">'
        f'<div class="wavebox">{waveform(clip.samples)}<i class="played"></i></div>'
        f'<audio controls preload="none" src="{sound_uri(clip.samples)}"></audio>'
        f'<span class="seconds">{clip.seconds:.1f} s</span></div>'
    )


def clip_card(number: int, clip: Clip, names: dict[str, str]) -> str:
    """Return a clip to listen to with its source, references and every system's texts.

    Args:
        number: Its number on the page.
        clip: The clip.
        names: System key -> what the page calls it, in the order of the columns.
    """
    texts = "".join(_rendering(row, names) for row in clip.renderings)
    head = f'<span class="number">{number}</span><p class="source" lang="en">{escape(clip.source)}</p>'
    return (
        f'<article class="clip"><header>{head}<p class="note">{escape(clip.note)}</p></header>'
        f'{player(clip)}<div class="renderings">{texts}</div></article>'
    )


def _rendering(row: Rendering, names: dict[str, str]) -> str:
    tongue = language(row.language)
    lang = HTML_LANGUAGES.get(row.language, row.language)
    lines = [f'<dt>reference</dt><dd lang="{lang}">{escape(row.reference)}</dd>']
    for key, name in names.items():
        if key not in row.texts:
            continue
        right = row.texts[key] == row.reference
        body = marked_difference(row.texts[key], row.reference, tongue.spaces)
        tick = '<span class="exact" title="equals the reference">✓</span>' if right else ""
        lines.append(f'<dt class="{key}">{escape(name)}</dt><dd lang="{lang}">{body}{tick}</dd>')
    return f"<section><h4>{tongue.name}</h4><dl>{''.join(lines)}</dl></section>"


def transport_figure(clip: Clip, names: dict[str, str]) -> str:
    """Return the transport plans of a clip, one heat map per system, under its sound."""
    figures = []
    for key, name in names.items():
        if key not in clip.maps:
            continue
        plan = clip.maps[key]
        windows = np.zeros(len(plan.plan) * SAMPLES_PER_WINDOW, dtype=np.float32)
        windows[: len(clip.samples)] = clip.samples[: len(windows)]
        drawn = heat_map(
            plan.plan, plan.tokens, samples=windows, label=f"transport plan of {name} for: {clip.source}"
        )
        figures.append(
            f'<figure class="{key}" data-clip="{escape(clip.id, quote=True)}" '
            f'data-seconds="{len(windows) / SAMPLE_RATE_HZ:.3f}"><h4>{escape(name)}</h4>{drawn}'
            f"<figcaption>layer {plan.layer} · W = {plan.value:.3g}</figcaption></figure>"
        )
    return (
        f'<div class="transport"><p class="source" lang="en">{escape(clip.source)}</p>{player(clip)}'
        f'<div class="plans">{"".join(figures)}</div></div>'
    )


@dataclass(frozen=True)
class Row:
    """One row of a table: its cells as HTML, and how it is set."""

    cells: Sequence[str]
    style: str = ""


def table(head: Sequence[str], rows: Sequence[Row], caption: str = "") -> str:
    """Return a table; the first column holds names, the others numbers. Cells are HTML."""
    heads = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = []
    for row in rows:
        if len(row.cells) == 1:
            body.append(f'<tr class="group"><th colspan="{len(head)}">{row.cells[0]}</th></tr>')
            continue
        cells = "".join(f"<td>{cell}</td>" for cell in row.cells[1:])
        body.append(f'<tr class="{row.style}"><th scope="row">{row.cells[0]}</th>{cells}</tr>')
    title = f"<caption>{caption}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table>{title}<thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def signed(value: float, digits: int = 1) -> str:
    """Write a difference with its sign, a true minus, and no sign for zero."""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return ("+" if value > 0 else "−") + text
