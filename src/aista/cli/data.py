"""``aista data``: look at manifests, rearrange them, make them from corpora and other formats."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from aista.cli import AsJson, examples, goes_on
from aista.errors import AudioError, ConfigError

if TYPE_CHECKING:
    from aista.data.checks import CheckReport
    from aista.data.corpora import SplitReport

app = typer.Typer(
    no_args_is_help=True, help="Check, show, split, mix, cut, prepare, import and export manifests."
)

TooLongOption = Literal["skip", "error", "segment"]
ManifestPath = Annotated[Path, typer.Argument(help="A manifest: JSON lines, one utterance a line.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Where to write.")]
Seed = Annotated[int, typer.Option(help="Another seed, another choice.")]
_SHARE = re.compile(r"=[^/=]*$")
Workers = Annotated[int, typer.Option(min=1, help="Threads that read audio.")]


@app.command(
    epilog=examples(
        "aista data check data/*.jsonl",
        "aista data check train.jsonl --decode --workers 8",
        "aista data check train.jsonl --strict --json",
    )
)
def check(
    manifests: Annotated[list[Path], typer.Argument(help="Manifests: JSON lines, one utterance a line.")],
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode all audio (finds corrupt, silent, clipped).")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False,
    workers: Workers = 4,
    as_json: AsJson = False,
) -> None:
    """Find everything wrong with manifests and their audio. Exit code 0: fit to train on; 1: not."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    from aista.data.checks import check as run
    from aista.data.manifest import Manifest

    reports = []
    with Progress(console=Console(stderr=True), transient=True) as bar:
        for path in manifests:
            manifest = Manifest(path)
            task = bar.add_task(escape(path.name), total=len(manifest))
            reports.append(run(manifest, decode=decode, workers=workers, progress=partial(bar.advance, task)))
    if as_json:
        typer.echo(json.dumps([report.to_dict() for report in reports], ensure_ascii=False, indent=1))
    else:
        for report in reports:
            _print_check(report)
    if not all(report.ok and not (strict and report.problems) for report in reports):
        raise typer.Exit(1)


def _print_check(report: CheckReport) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from aista.data.checks import EXAMPLES, HISTOGRAM_EDGES

    console = Console(highlight=False, emoji=False)
    verdict = "[green]fit to train on[/]" if report.ok else "[bold red]not fit to train on[/]"
    heard = "audio decoded" if report.decoded else "audio headers read (--decode looks inside)"
    path = escape(str(report.path))
    console.print(f"[bold]{path}[/]: {verdict}; {report.rows:,} rows, {report.hours:,.2f} h, {heard}")
    counts = [
        f"{task} {n:,} ({report.hours_by_task.get(task, 0):,.2f} h)"
        for task, n in report.rows_by_task.items()
    ]
    console.print("  tasks      " + ", ".join(counts))
    for title, values in (("directions", report.rows_by_direction), ("corpora", report.rows_by_corpus)):
        console.print(
            f"  {title:<10} " + ", ".join(f"{name} {n:,}" for name, n in values.most_common(8)), markup=False
        )
    most = max(*report.histogram, 1)
    for low, high, count in zip(HISTOGRAM_EDGES, HISTOGRAM_EDGES[1:], report.histogram, strict=False):
        if count:
            console.print(
                f"  {low:>5g} - {high:<5g} s  {'█' * -(-40 * count // most)} {count:,}", markup=False
            )
    if report.problems:
        table = Table(show_lines=True, expand=True)
        table.add_column("problem", ratio=1)
        table.add_column("rows", justify="right")
        table.add_column(f"the first (at most {EXAMPLES})", ratio=3)
        for kind, problem in report.problems.items():
            colour = "red" if problem.severity == "error" else "yellow"
            meaning, examples = escape(problem.meaning), escape("\n".join(problem.examples))
            table.add_row(f"[{colour}]{kind}[/]\n{meaning}", f"{problem.count:,}", examples)
        console.print(table)


@app.command(
    epilog=examples(
        "aista data show train.jsonl",
        "aista data show train.jsonl --id u17",
        "aista data show train.jsonl --from 100 --count 5 --json",
    )
)
def show(
    manifest: ManifestPath,
    row_id: Annotated[str | None, typer.Option("--id", help="Show the row of this id.")] = None,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=0, help="How many rows to show. [3]")
    ] = None,
    first: Annotated[int | None, typer.Option("--from", min=0, help="Row to begin with, from 0. [0]")] = None,
    as_json: AsJson = False,
) -> None:
    """Show rows and what their audio really is."""
    from rich.console import Console
    from rich.markup import escape

    from aista.audio.files import probe
    from aista.data.manifest import Manifest

    rows = Manifest(manifest)
    if row_id is not None:
        if (count, first) != (None, None):
            raise ConfigError("--id shows one row: it does not go with --from or --count.")
        chosen = [index for index, row in enumerate(rows) if row.id == row_id]
        if not chosen:
            raise ConfigError(f"{manifest} has no row with id {row_id!r}.")
    else:
        begin = first or 0
        if begin >= len(rows) and count != 0:
            raise ConfigError(f"{manifest} has no row {begin}.", got=f"{len(rows)} rows, counted from 0")
        chosen = list(range(begin, min(begin + (3 if count is None else count), len(rows))))
    console = Console(highlight=False, emoji=False)
    for index in chosen:
        row = rows[index]
        seen = row.model_dump(exclude_none=True)
        try:
            info = probe(rows.audio_path(row)) if row.audio is not None else None
            if info is not None:
                channels = f"{info.num_channels} channel(s)"
                seen["file"] = f"{info.duration_seconds:.3f} s, {info.sample_rate_hz} Hz, {channels}"
        except AudioError as error:
            seen["file"] = str(error)
        if as_json:
            typer.echo(json.dumps(seen, ensure_ascii=False))
            continue
        console.print(f"[bold]{escape(rows.where(index))}[/]")
        for name, value in seen.items():
            console.print(f"  {name:<12} {value}", markup=False)


@app.command(
    epilog=examples(
        "aista data split asr.jsonl st.jsonl train=0.9 dev=0.05 test=0.05",
        "aista data split st.jsonl train=0.8 test=0.2 --by speaker --out data",
    )
)
def split(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="MANIFEST... NAME=SHARE...",
            help="Manifests, and parts with their shares: asr.jsonl st.jsonl train=0.9 dev=0.05 test=0.05",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder; default: beside each manifest.")
    ] = None,
    by: Annotated[Literal["id", "audio", "speaker"], typer.Option(help="What is never divided.")] = "audio",
    seed: Seed = 0,
) -> None:
    """Split manifests into parts that share no recording, or no speaker.

    Manifests of the same recordings are split together: a recording is in the same part of each.
    """
    from aista.data.manifest import Manifest
    from aista.data.rearrange import split as run

    parts = [part for part in arguments if _SHARE.search(part)]
    if not 0 < len(parts) < len(arguments):
        raise ConfigError(
            "A split needs manifests and parts.",
            got=" ".join(arguments),
            expected="st.jsonl train=0.9 dev=0.1",
        )
    manifests = [Manifest(part) for part in arguments if part not in parts]
    written = run(manifests, _numbers(parts), out, by=by, seed=seed)
    for number, path in enumerate(written.values()):
        size, total = len(Manifest(path)), len(manifests[number // len(parts)])
        typer.echo(f"{size:>9,}  {size / max(total, 1):>6.1%}  {path}")


@app.command(
    epilog=examples(
        "aista data mix asr.jsonl=0.7 aac.jsonl=0.3 --out mixed.jsonl",
        "aista data mix asr.jsonl=1 st.jsonl=1 --count 10000 --out mixed.jsonl",
    )
)
def mix(
    parts: Annotated[list[str], typer.Argument(help="Manifests and weights: asr.jsonl=0.7 aac.jsonl=0.3")],
    out: Out,
    count: Annotated[
        int | None, typer.Option(min=1, help="Rows of the mixture; default: all of them together.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Write a shuffled mixture in which each manifest has its share of the rows."""
    from aista.data.manifest import Manifest
    from aista.data.rearrange import mix as run

    weights = _numbers(parts)
    written = run([Manifest(path) for path in weights], list(weights.values()), out, count=count, seed=seed)
    typer.echo(f"{written:>9,}  {out}")


@app.command(
    epilog=examples(
        "aista data subset train.jsonl --hours 10 --out ten_hours.jsonl",
        "aista data subset train.jsonl --count 500 --seed 1 --out some.jsonl",
    )
)
def subset(
    manifest: ManifestPath,
    out: Out,
    count: Annotated[int | None, typer.Option(min=1, help="How many rows.")] = None,
    hours: Annotated[float | None, typer.Option(min=0.0, help="How much audio.")] = None,
    seed: Seed = 0,
) -> None:
    """Write a random subset of a manifest, by rows or by hours."""
    from aista.data.manifest import Manifest
    from aista.data.rearrange import subset as run

    typer.echo(f"{run(Manifest(manifest), out, count=count, hours=hours, seed=seed):>9,}  {out}")


@app.command(
    epilog=examples(
        "aista data cut talks.jsonl --out talks.30s.jsonl",
        "aista data cut talks.jsonl --max-seconds 20 --out talks.20s.jsonl",
    )
)
def cut(
    manifest: ManifestPath,
    out: Out,
    max_seconds: Annotated[float, typer.Option(min=0.1, help="The longest row, in seconds.")] = 30.0,
) -> None:
    """Cut rows that are too long at their `segments`, captioned sounds to their beginning; skip others."""
    from aista.data.manifest import Manifest
    from aista.data.rearrange import cut as run

    report = run(Manifest(manifest), out, max_seconds=max_seconds)
    typer.echo(f"{len(Manifest(out)):>9,}  {out}")
    for sentence in report.sentences():
        typer.echo(f"           {sentence}")


def _numbers(parts: list[str]) -> dict[str, float]:
    """Read ``name=number`` arguments."""
    numbers: dict[str, float] = {}
    for part in parts:
        name, equals, number = part.rpartition("=")
        if name in numbers:
            raise ConfigError(f"{name!r} has two numbers.", got=" ".join(parts), expected="each name once")
        try:
            numbers[name] = float(number)
        except ValueError:
            equals = ""
        if not equals:
            raise ConfigError(f"Cannot read {part!r}.", expected="NAME=NUMBER, e.g. train=0.9")
    return numbers


@app.command(
    epilog=examples(
        "aista data prepare librispeech --source corpora/LibriSpeech --out data/librispeech "
        "--split train-clean-100",
        "aista data prepare covost2 --source cv-corpus-4/en --direction en-ja --out data/covost2-en-ja",
        "aista data prepare wavcaps --source corpora/WavCaps --out data/wavcaps --crop-seconds 30",
    )
)
@goes_on()
def prepare(
    name: Annotated[
        str, typer.Argument(help="librispeech, gigaspeech, wavcaps, audiocaps, clotho, covost2, ...")
    ],
    source: Annotated[Path, typer.Option("--source", "-s", help="Folder of the corpus as it was unpacked.")],
    out: Out,
    split: Annotated[list[str], typer.Option(help="Split to prepare; default: all that are there.")] = [],
    direction: Annotated[str | None, typer.Option(help="For CoVoST 2: en-zh, en-ja, fr-en, ...")] = None,
    max_seconds: Annotated[float | None, typer.Option(min=0.1, help="The longest clip.")] = None,
    too_long: Annotated[
        TooLongOption, typer.Option(help="Longer clips; segment: captions keep the beginning of the sound.")
    ] = "skip",
    blacklist: Annotated[
        str | None,
        typer.Option(help="For WavCaps: JSON of clips to leave out; none; default: the one shipped."),
    ] = None,
    crop_seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Use only the beginning of longer clips.")
    ] = None,
    workers: Workers = 4,
    as_json: AsJson = False,
) -> None:
    """Make manifests from a corpus and compare them with its published size.

    Run it again to go on where it stopped; finished splits are kept.
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    from aista.data.corpora import prepare as run
    from aista.data.too_long import Limits

    given = {"direction": direction, "blacklist": blacklist}
    options: dict[str, Any] = {name: value for name, value in given.items() if value}
    columns = (SpinnerColumn(), TextColumn("{task.description} {task.completed:,.0f} rows"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def progress(name: str, count: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=None)
            bar.advance(tasks[name], count)

        reports = run(
            name, source, out, splits=split, limits=Limits(max_seconds, too_long, crop_seconds),
            workers=workers, progress=progress, **options,
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps([asdict(report) for report in reports], ensure_ascii=False, indent=1))
        return
    console = Console(highlight=False, emoji=False)
    for report in reports:
        _print_split(report)
    for note in dict.fromkeys(report.note for report in reports):
        console.print(f"Note: {note}", markup=False)


def _print_split(report: SplitReport) -> None:
    """Print what became of a split, and how it compares with what was published."""
    from rich.console import Console
    from rich.markup import escape

    console, published = Console(highlight=False, emoji=False), report.expected
    console.print(f"[bold]{escape(report.manifest)}[/]: {report.rows:,} rows, {report.hours:,.2f} h")
    if published.rows or published.hours:
        size = [f"{published.rows:,} rows"] if published.rows else []
        size += [f"{published.hours:,.0f} h"] if published.hours else []
        missing = [f"{report.missing:,} rows"] if report.missing else []
        missing += [f"{report.missing_hours:,.1f} h"] if report.missing_hours else []
        gap = f"; [yellow]{' and '.join(missing)} are missing[/]" if missing else "; nothing is missing"
        console.print(f"  published: {', '.join(size)}{gap}")
    for count, fate in ((report.cropped, "cut to their beginning"), (report.segmented, "cut to pieces")):
        if count:
            console.print(f"  {fate}: {count:,} clips")
    for reason, count in report.left_out.items():
        console.print(f"  left out {count:,}: {reason} ({', '.join(report.examples[reason])})", markup=False)


@app.command(
    "import",
    epilog=examples(
        "aista data import recordings --format folder --tgt-lang zh --out data/own.jsonl",
        "aista data import all.tsv --format table --column audio=path --column text=sentence "
        "--out data/all.jsonl",
        "aista data import train.json --format salmonn --out data/train.jsonl",
    ),
)
def import_(
    source: Annotated[Path, typer.Argument(help="File or folder of the other tool.")],
    out: Out,
    format_: Annotated[
        str,
        typer.Option("--format", "-f", help="folder, table, salmonn, nemo, qwen, slam, lhotse, huggingface."),
    ],
    task: Annotated[str | None, typer.Option(help="asr, aac, st or mt, where rows do not say.")] = None,
    src_lang: Annotated[str | None, typer.Option(help="What is spoken, where rows do not say.")] = None,
    tgt_lang: Annotated[str | None, typer.Option(help="Language of the translation, likewise.")] = None,
    corpus: Annotated[str | None, typer.Option(help="Name of the corpus, likewise.")] = None,
    column: Annotated[
        list[str], typer.Option(help="FIELD=COLUMN of a table or data set; FIELD= takes none.")
    ] = [],
    audio_root: Annotated[Path | None, typer.Option(help="Where relative audio paths start.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of a Hugging Face data set.")] = None,
) -> None:
    """Make a manifest from another tool's data. Then: `aista data check`."""
    from aista.data.importers import Options, import_manifest

    defaults = {"task": task, "src_lang": src_lang, "tgt_lang": tgt_lang, "corpus": corpus}
    columns = dict(part.partition("=")[::2] for part in column)
    if len(columns) < len(column) or not all("=" in part for part in column):
        raise ConfigError(
            "Cannot read --column.",
            got=", ".join(column),
            expected="FIELD=COLUMN, each field once, e.g. --column text=sentence",
        )
    options = Options({k: v for k, v in defaults.items() if v is not None}, columns, audio_root, out, split)
    imported = import_manifest(format_, source, out, options)
    typer.echo(f"{imported.rows:>9,}  {out}")
    for kind, counts in (("skipped", imported.skipped), ("note", imported.notes)):
        for reason, count in counts.items():
            places = imported.examples.get(reason, [])
            more = ", ..." if count > len(places) else ""
            typer.echo(f"{count:>9,}  {kind}: {reason} ({', '.join(places)}{more})")
    if not imported.rows:
        typer.echo("Nothing was imported, and nothing was written.", err=True)
        raise typer.Exit(1)


@app.command(
    epilog=examples(
        "aista data export train.jsonl --format nemo --out nemo.jsonl",
        "aista data export train.jsonl --format table --out train.tsv",
    )
)
def export(
    manifest: ManifestPath,
    out: Out,
    format_: Annotated[
        str, typer.Option("--format", "-f", help="table, salmonn, nemo, qwen, slam or lhotse.")
    ],
) -> None:
    """Write a manifest in another tool's format."""
    from aista.data.importers import export_manifest
    from aista.data.manifest import Manifest

    typer.echo(f"{export_manifest(format_, Manifest(manifest), out):>9,}  {out}")


@app.command(
    epilog=examples(
        "aista data shard train.jsonl --out shards",
        "aista data shard train.jsonl --out shards --rows 500",
    )
)
def shard(
    manifest: ManifestPath,
    out: Out,
    rows: Annotated[int, typer.Option(min=1, help="Utterances per shard.")] = 1000,
    seed: Seed = 0,
) -> None:
    """Write a manifest's sounds as tar shards (FLAC, 16 kHz), and a manifest that leads into them."""
    from aista.data.manifest import Manifest
    from aista.data.rearrange import write_shards

    paths = write_shards(Manifest(manifest), out, rows_per_shard=rows, seed=seed)
    typer.echo(f"{len(paths):>9,}  shards in {out}")
    typer.echo(f"           {out / manifest.name}")
