"""An exhibit keeps every number in every form."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from aista.errors import ConfigError
from aista.experiments.results import Cell, Figure, Row, Table, load_all, save

TABLE = Table(
    name="table4",
    title="Table 4: methods",
    columns=["En-Zh", "log W"],
    rows=[
        Row(label="Qwen2 & others", is_heading=True),
        Row(label="base", cells=[Cell(value=45.04, paper=45.3), Cell(value=7.25, digits=2)], key="base"),
        Row(
            label="AI-STA",
            cells=[Cell(value=46.0, deviation=0.25, values=[45.8, 46.2], paper=46.0, p_value=0.01), Cell()],
        ),
        Row(label="Layer 1", cells=[Cell(mark="X", paper="X")]),
    ],
    signatures=["nrefs:1|tok:zh"],
)
FIGURE = Figure(
    name="figure6", title="Figure 6", data={"rows": [{"x": 1.5, "y": 2}], "r": -0.5}, svg="<svg/>", png="aGk="
)


def test_json_gives_the_same_exhibit_back() -> None:
    assert Table.of(json.loads(TABLE.to_json())) == TABLE
    assert Figure.of(json.loads(FIGURE.to_json())) == FIGURE
    with pytest.raises(ConfigError):
        Table.of(json.loads(FIGURE.to_json()))


def test_the_papers_value_stands_beside_ours() -> None:
    heading, rows = TABLE.grid()
    assert heading == ["", "En-Zh", "paper", "log W"]
    assert rows[1] == ["base", "45.0", "45.3", "7.25"]
    assert rows[2] == ["AI-STA", "46.0 ± 0.2*", "46.0", ""]
    assert rows[3] == ["Layer 1", "X", "X", ""]


def test_csv_holds_every_seed_in_full() -> None:
    rows = list(csv.DictReader(io.StringIO(TABLE.to_csv())))
    row = next(row for row in rows if row["row"] == "AI-STA" and row["column"] == "En-Zh")
    assert row["values"] == "45.8 46.2" and float(row["deviation"]) == 0.25 and float(row["p_value"]) == 0.01
    assert list(csv.DictReader(io.StringIO(FIGURE.to_csv()))) == [{"x": "1.5", "y": "2"}]


def test_a_figure_without_rows_is_a_table_of_paths() -> None:
    figure = FIGURE.model_copy(update={"data": {"a": {"b": [1, 2]}}})
    assert figure.to_csv().splitlines() == ["path,value", "a/b/0,1", "a/b/1,2"]


def test_latex_escapes_and_has_a_cell_per_column() -> None:
    lines = TABLE.to_latex().splitlines()
    assert r"\multicolumn{4}{l}{\textit{Qwen2 \& others}} \\" in lines
    assert r"AI-STA & 46.0 $\pm$ 0.2* & 46.0 &  \\" in lines


def test_latex_is_bold_where_the_page_is_and_writes_greek() -> None:
    cells = [Cell(value=1.0, paper=2.0), Cell(value=3.0, best=True)]
    table = Table(name="t", title="Δ, α .9", columns=["a", "b"], rows=[Row(label="x", cells=cells)])
    lines = table.to_latex().splitlines()
    assert r"x & 1.0 & 2.0 & \textbf{3.0} \\" in lines
    assert r"\caption{$\Delta$, $\alpha$ .9. }" in lines


def test_latex_carries_the_rules_and_signatures() -> None:
    table = TABLE.model_copy(update={"notes": ["p < 0.05 {a}"]})
    assert r"{\footnotesize p $<$ 0.05 \{a\} nrefs:1$|$tok:zh\par}" in table.to_latex()


def test_text_shows_the_signature_whole() -> None:
    text = TABLE.to_text(width=60)
    assert "nrefs:1|tok:zh" in text and "46.0 ± 0.2*" in text


def test_text_shows_brackets_as_they_are() -> None:
    row = Row(label="[/INST] :x:", cells=[Cell(mark="[b]")], key="a")
    text = Table(name="t", title="T [/x]", columns=["[red]c"], rows=[row]).to_text()
    assert all(part in text for part in ("[/INST] :x:", "[b]", "T [/x]", "[red]c"))


def test_saved_exhibits_are_found_again(tmp_path: Path) -> None:
    for exhibit in (FIGURE, TABLE):
        save(exhibit, tmp_path)
    assert list(load_all(tmp_path).items()) == [("table4", TABLE), ("figure6", FIGURE)]
    assert (tmp_path / "exhibits/figure6.png").read_bytes() == b"hi"
