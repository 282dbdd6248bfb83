"""``aista translate``: any sound into text."""

from __future__ import annotations

import io
import os
import stat
import sys
import tempfile
from collections import Counter
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from aista.cli import Bases, examples, goes_on
from aista.errors import AistaError, ConfigError

if TYPE_CHECKING:
    from aista.inference.translated import TranslationFolder
    from aista.inference.translator import Translation

app = typer.Typer()

STDIN = "-"
_TO_A_FILE_EACH = ("srt", "vtt", "tsv")
_WITH_WORD_TIMES = ("srt", "vtt", "json")


# What `aista serve` asks too.
Beams = Annotated[int, typer.Option(min=1, help="Beams of the search; 1 is greedy.")]
Vad = Annotated[
    Literal["on", "off"],
    typer.Option(help="Look for speech first (pip install '.[vad]') and translate that alone."),
]
Coverage = Annotated[
    Literal["warn", "retry", "fail"],
    typer.Option(help="An answer that cannot be right: say so, ask in smaller pieces, or fail."),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...", show_default="a GPU if any")]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option(help="Of the frozen weights.", show_default="bfloat16 on a GPU, float32 on a CPU"),
]


@app.command(
    epilog=examples(
        "aista translate talk.wav --to zh",
        "aista translate *.mp3 --to ja --output-format srt --output-dir subtitles",
        "aista translate talk.flac --to en                          (English to English: a transcript)",
        "aista translate call.wav --to zh --channel 1                (one speaker of two)",
        "aista translate talk.wav --to zh --model runs/joint --beams 4 --coverage retry",
        "aista translate talk.wav --to de --model base               (real words; aista download: its bases)",
        "aista translate talk.wav --to zh --model Qwen/Qwen2-Audio-7B-Instruct",
        "ffmpeg -i film.mkv -f wav - | aista translate - --to zh --output-format vtt > film.vtt",
        "aista translate --live --to zh                             (from the microphone)",
        "ffmpeg -i URL -f s16le -ac 1 -ar 16000 - | aista translate - --live --to zh",
        note="Exit code: 0 if every file was translated, 1 if some could not be, 2 if nothing could start.",
    )
)
def translate(
    target: Annotated[str, typer.Option("--to", "-t", help="Language to translate into: zh, ja, en, ...")],
    files: Annotated[
        list[str], typer.Argument(help="WAV, FLAC, MP3, OGG or Opus, of any length; - is stdin.")
    ] = [],
    source: Annotated[str, typer.Option("--from", "-f", help="Language that is spoken.")] = "en",
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="Folder of a model, or id of a speech LLM.", show_default="the one shipped"
        ),
    ] = None,
    output_format: Annotated[
        Literal["text", "json", "srt", "vtt", "tsv"], typer.Option(help="How to write it.")
    ] = "text",
    output_dir: Annotated[
        Path | None,
        typer.Option(
            help="Write FILE.LANGUAGE.SUFFIX here, and warnings about srt, tsv and text beside it.",
            show_default="stdout",
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="With --output-dir: translate anew, and over whatever is there."),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Segments at once; does not change the text.")] = 8,
    beams: Beams = 1,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer to one segment.")] = 200,
    channel: Annotated[
        int | None, typer.Option(min=0, help="Channel to hear, from 0.", show_default="the mean of all")
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Longest recording in minutes.", show_default="720.0")
    ] = None,
    vad: Vad = "on",
    coverage: Coverage = "warn",
    live: Annotated[
        bool, typer.Option("--live", help="Translate while it is spoken: the microphone, or PCM with -.")
    ] = False,
    chunk_seconds: Annotated[
        float | None, typer.Option(min=0.1, help="With --live: how often to ask.", show_default="1.0")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    bases: Bases = [],
) -> None:
    """Translate speech. A long recording is cut at quiet places; what is no speech is left out, and told.

    One file that cannot be read does not stop the others; warnings and errors go to stderr. With --output-dir
    the same command goes on where it stopped: what this model and these settings finished is kept.
    """
    if bool(files) == live and files != [STDIN]:
        raise typer.BadParameter("files, or --live with the microphone or with - for PCM on stdin")
    of_files = {
        "--output-dir": output_dir is not None,
        "--overwrite": overwrite,
        f"--output-format {output_format}": output_format in _TO_A_FILE_EACH,
        "--channel": channel is not None,
        f"--coverage {coverage}": coverage != "warn",
        "--max-minutes": max_minutes is not None,
        "--vad off": vad == "off",
    }
    if live and any(of_files.values()):
        told = ", ".join(name for name, given in of_files.items() if given)
        raise typer.BadParameter(f"--live writes text or json to stdout while it is spoken: leave out {told}")
    if chunk_seconds is not None and not live:
        raise typer.BadParameter("--chunk-seconds is for --live: leave it out")
    if overwrite and output_dir is None:
        raise typer.BadParameter("--overwrite is for --output-dir: leave it out")
    places = _places(files, target, output_format, output_dir)
    if output_dir is not None:  # before hours of work
        from aista.run_folder import writable

        with writable(output_dir):
            output_dir.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=output_dir).close()
    from transformers.utils.logging import disable_progress_bar

    from aista.inference.formats import write
    from aista.inference.translated import TranslationFolder
    from aista.inference.translator import ABOUT, load

    disable_progress_bar()
    folder: TranslationFolder | None = None
    todo, failures = list(places) or files, 0
    if output_dir is not None:
        search = {"from": source, "to": target, "num_beams": beams, "max_new_tokens": max_new_tokens}
        search |= {"channel": channel, "vad": vad, "coverage": coverage}
        folder = TranslationFolder(output_dir, _made_by(model, device, dtype, search))
        sounds = {name: _sound(name) for name in places}
        if not overwrite:
            todo, failures = _unfinished(folder, places, sounds)
        if not todo:
            return _end(failures, len(places))
    translator = load(
        model, device=device, dtype=dtype, batch_size=batch_size, num_beams=beams,
        max_new_tokens=max_new_tokens,
    )  # fmt: skip
    translator.channel = channel
    if max_minutes is not None:
        translator.max_minutes = max_minutes
    translator.vad, translator.coverage = vad == "on", coverage
    translator.word_times = output_format in _WITH_WORD_TIMES
    if about := ABOUT.get(translator.name):
        typer.echo(f"note: {about} For another: --model", err=True)
    if live:
        as_json = output_format == "json"
        _live(translator, target, source, chunk_seconds or 1.0, piped=bool(files), as_json=as_json)
        return

    def heard(name: str) -> Any:
        if folder is None:
            return _sound(name)
        folder.begin(places[name], sounds[name])
        return sounds[name]

    results = translator.stream(map(heard, todo), target, source=source)
    with goes_on() if folder else nullcontext():
        for name, result in zip(todo, results, strict=True):
            if isinstance(result, AistaError):
                failures += 1
                typer.echo(f"error: {result}", err=True)
                continue
            for warning in result.warnings:
                typer.echo(f"warning: {name}: {warning}", err=True)
            try:
                if folder is None:
                    _print(result, name, output_format, several=len(files) > 1)
                else:
                    note = partial(folder.note, places[name], overwrite=overwrite)
                    beside = write(result, output_format, places[name], note)
                    typer.echo(f"{name}: {places[name]}{f' and {beside.name}' if beside else ''}", err=True)
            except ConfigError as error:  # another call has written there meanwhile
                failures += 1
                typer.echo(f"error: {name}: {error}", err=True)
            except OSError as error:
                if folder is None:
                    raise  # stdout is gone, for all files
                failures += 1
                typer.echo(f"error: {name}: {error.strerror or error}: {places[name]}", err=True)
    _end(failures, len(places or files))


def _made_by(
    model: str | None, device: str | None, dtype: str | None, search: dict[str, Any]
) -> dict[str, Any]:
    """Return what a translation is made by, as far as another one could be another text.

    Raises:
        CheckpointError, ConfigError: There is no such model or device.
    """
    from aista import __version__, processes
    from aista.audio import speech
    from aista.inference.translator import SHIPPED
    from aista.model.loading import moved_bases
    from aista.run_folder import sha256_of_model

    return {
        "model": sha256_of_model(model or SHIPPED),
        "bases": {role: sha256_of_model(path) for role, path in moved_bases().items()},  # of any precision
        "device": processes.device_named(device).type,
        "dtype": dtype,
        **search,
        "vad": search["vad"] == "on" and speech.is_installed(),
        "aista": __version__,
    }


def _unfinished(
    folder: TranslationFolder, places: dict[str, Path], sounds: dict[str, Any]
) -> tuple[list[str], int]:
    """Tell what is finished and what may not be written over; return the others, and how many may not."""
    todo, refused = [], 0
    for name, place in places.items():
        try:
            if not folder.is_finished(place, sounds[name]):
                todo.append(name)
            else:
                typer.echo(f"{name}: {place} (finished before; anew with --overwrite)", err=True)
        except (ConfigError, OSError) as error:
            refused += 1
            typer.echo(f"error: {name}: {error}", err=True)
    return todo, refused


def _end(failures: int, count: int) -> None:
    if failures:
        typer.echo(f"{failures} of {count} files could not be translated.", err=True)
        raise typer.Exit(1)


def _live(
    translator: Any, target: str, source: str, chunk_seconds: float, *, piped: bool, as_json: bool
) -> None:
    """Write stable text to stdout as it comes; on a terminal, what may still change stands dim behind it.

    Ctrl-C ends the microphone, and what was heard until then is still answered; a second one ends it at once.
    """
    import json
    import signal
    import threading
    from dataclasses import asdict

    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from aista.inference.streaming import Stream, from_microphone, from_pipe

    stream = Stream(translator, target, source=source, chunk_seconds=chunk_seconds)
    stop, interrupt = threading.Event(), signal.getsignal(signal.SIGINT)

    def end(*_: Any) -> None:
        stop.set()
        signal.signal(signal.SIGINT, interrupt)

    if not piped:
        signal.signal(signal.SIGINT, end)
    drawn, whole = sys.stdout.isatty() and not as_json, 0  # letters in lines that are whole
    with Live(console=Console(), auto_refresh=False, vertical_overflow="visible") as screen:

        def show(emission: Any) -> None:
            nonlocal whole
            if drawn:  # of stable text the last line alone: what a terminal has scrolled on is not drawn anew
                *lines, last = Text(stream.text[whole:]).wrap(screen.console, screen.console.width)
                whole = len(stream.text) - len(last)
                screen.update(Text.assemble(last, (f" {stream.unstable}", "dim")))
                if lines:
                    screen.console.print(*lines, sep="\n")
                screen.refresh()
            elif emission.text:
                line = json.dumps(asdict(emission), ensure_ascii=False) + "\n" if as_json else emission.text
                sys.stdout.write(line)
                sys.stdout.flush()

        try:
            for samples in from_pipe(sys.stdin.buffer) if piped else from_microphone(stop):
                show(stream.push(samples))
        except KeyboardInterrupt:
            if stop.is_set():  # the second one
                raise
        finally:
            signal.signal(signal.SIGINT, interrupt)
        show(stream.finish())
    if not drawn and not as_json:
        sys.stdout.write("\n")


def _sound(name: str) -> Any:
    """Return what to read: the path, or what comes only once, the bytes of stdin or of a pipe with a name."""
    is_pipe = name == STDIN
    with suppress(OSError, ValueError):  # what cannot be opened is told when its turn comes
        is_pipe = is_pipe or stat.S_ISFIFO(os.stat(name).st_mode)
    if not is_pipe:
        return name
    sound = io.BytesIO(sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes())
    sound.name = "<stdin>" if name == STDIN else name
    return sound


def _places(files: list[str], target: str, output_format: str, folder: Path | None) -> dict[str, Path]:
    """Return where each file's translation goes, no two to one place; nothing for stdout.

    Raises:
        ConfigError: Several subtitle files would run into one another, or stdin is asked for twice.
    """
    from aista.inference.formats import SUFFIXES

    if files.count(STDIN) > 1:
        raise ConfigError("stdin can be read only once.", got=" ".join(files))
    if folder is None:
        if len(files) > 1 and output_format in _TO_A_FILE_EACH:
            raise ConfigError(
                f"Several files cannot share one {output_format} on stdout.",
                advice="Add --output-dir FOLDER.",
            )
        return {}
    names = {name if name == STDIN else os.path.abspath(name): name for name in files}.values()
    stems = Counter(_stem(name) for name in names)
    ending = f".{target}{SUFFIXES[output_format]}"
    places = {
        name: folder / ((_stem(name) if stems[_stem(name)] == 1 else Path(name).name) + ending)
        for name in names
    }
    if len(set(places.values())) < len(places):
        raise ConfigError(
            "Two files of one name would be written to one place.",
            got=", ".join(name for name in names if stems[_stem(name)] > 1),
            advice="Translate them into different folders.",
        )
    return places


def _stem(name: str) -> str:
    return "stdin" if name == STDIN else Path(name).stem


def _print(result: Translation, name: str, output_format: str, *, several: bool) -> None:
    """Write one translation to stdout, with its name in front where there are several."""
    from aista.inference.formats import render

    head = f"{name}: " if several and output_format == "text" else ""
    sys.stdout.write(head + render(result, output_format))
    sys.stdout.flush()
