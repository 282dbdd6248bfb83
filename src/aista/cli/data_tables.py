"""What ``aista data`` prints for people: checks and prepared splits."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from aista.data.checks import EXAMPLES, HISTOGRAM_EDGES, CheckReport
from aista.data.prepare import SplitReport


def print_check(report: CheckReport) -> None:
    """Print a check for people."""
    console = Console(highlight=False)
    verdict = "[green]fit to train on[/]" if report.ok else "[bold red]not fit to train on[/]"
    heard = "audio decoded" if report.decoded else "audio headers read (--decode looks inside)"
    console.print(f"[bold]{report.path}[/]: {verdict}; {report.rows:,} rows, {report.hours:,.2f} h, {heard}")
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
            examples = "\n".join(problem.examples).replace("[", r"\[")
            table.add_row(f"[{colour}]{kind}[/]\n{problem.meaning}", f"{problem.count:,}", examples)
        console.print(table)


def print_split(report: SplitReport, console: Console) -> None:
    """Print what became of a split, and how it compares with what was published."""
    published = report.expected
    console.print(f"[bold]{report.manifest}[/]: {report.rows:,} rows, {report.hours:,.2f} h")
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
