"""A row of a table is whole, or counted with its line: never the half of one with the other half's sound."""

from __future__ import annotations

import csv

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aista.data.corpora import prepare
from aista.data.importers import Options, import_manifest
from aista.data.manifest import Manifest
from aista.data.text_files import Broken, read_rows
from aista.errors import ManifestError
from tests.data import miniatures

COLUMNS = {"audio": "path", "text": "sentence"}


def imported(folder, name, content):
    (folder / name).write_bytes(content.encode())
    result = import_manifest("table", folder / name, folder / "m.jsonl", Options({}, COLUMNS))
    return result, [(row.audio, row.text) for row in Manifest(folder / "m.jsonl")]


@given(
    rows=st.lists(
        st.lists(st.text(alphabet="ab \r\x85\u2028\"',\\\\", min_size=1, max_size=6), min_size=3, max_size=3),
        min_size=1,
        max_size=6,
    ),
    ends=st.sampled_from(["\n", "\r\n"]),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_cells_without_tab_and_line_feed_come_back(tmp_path, rows, ends):
    rows = [row for row in rows if "".join(row).strip()]
    lines = ["a\tb\tc", *("\t".join(row) for row in rows)]
    (tmp_path / "t.tsv").write_bytes((ends.join(lines) + ends).encode())
    found = [list(row.values()) for _, row in read_rows(tmp_path / "t.tsv")]
    wanted = [[cell.replace("\r", " ") for cell in row] for row in rows]
    assert [[cell.rstrip() for cell in row] for row in found] == [[c.rstrip() for c in row] for row in wanted]


@given(
    rows=st.lists(
        st.lists(st.text(alphabet='ab \n\r",;', max_size=6), min_size=2, max_size=3), min_size=1, max_size=5
    )
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_quoted_cells_come_back_and_short_rows_are_broken(tmp_path, rows):
    rows = [row for row in rows if "".join(row).strip()]
    with open(tmp_path / "t.csv", "w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["a", "b", "c"], *rows])
    found = [row for _, row in read_rows(tmp_path / "t.csv")]
    assert len(found) == len(rows)
    for row, wanted in zip(found, rows, strict=True):
        assert isinstance(row, Broken) if len(wanted) == 2 else list(row.values()) == wanted


@pytest.mark.parametrize("old_mac", [False, True])
def test_carriage_returns_in_a_tsv(tmp_path, old_mac):
    inside = "She went to the library." if old_mac else "She went\rto the library."
    content = f"path\tsentence\tvotes\na.wav\t{inside}\t2\nb.wav\tHe stayed.\t1\n"
    result, rows = imported(tmp_path, "t.tsv", content.replace("\n", "\r") if old_mac else content)
    assert not result.skipped
    assert rows == [("a.wav", "She went to the library."), ("b.wav", "He stayed.")]


GOOD = [("a.wav", "One."), ("c.wav", "Three.")]


@pytest.mark.parametrize(
    ("name", "broken", "kept"),
    [
        (
            "t.tsv",
            "path\tsentence\tvotes\na.wav\tOne.\t1\nb.wav\tTwo\tand more.\t1\nc.wav\tThree.\t1\n",
            GOOD,
        ),
        (
            "t.tsv",
            "path\tsentence\tvotes\na.wav\tOne.\t1\nb.wav\tTwo\nand more.\t1\nc.wav\tThree.\t1\n",
            GOOD,
        ),
        (
            "t.tsv",
            "votes\tpath\tsentence\n1\ta.wav\tOne.\n1\tb.wav\tTwo\nand more.\n1\tc.wav\tThree.\n",
            GOOD,
        ),
        ("t.tsv", "sentence\tpath\nOne.\ta.wav\nTwo\nand more.\tb.wav\nThree.\tc.wav\n", GOOD),
        ("t.tsv", "path\tsentence\tvotes\na.wav\tOne.\t1\nb.wav\tTwo.\nc.wav\tThree.\t1\n", GOOD),
        ("t.csv", "path,sentence,votes\na.wav,One.,1\nb.wav,Two, and more.,1\nc.wav,Three.,1\n", GOOD),
        ("t.csv", "path,sentence,votes\na.wav,One.,1\nb.wav,Two\nand more.,1\nc.wav,Three.,1\n", GOOD),
        ("t.csv", "votes,path,sentence\n1,a.wav,One.\n1,b.wav,Two\nand more.\n1,c.wav,Three.\n", GOOD),
        ("t.csv", "votes,path,sentence\n1,a.wav,One.\n1,b.wav,Two\n\nand more.\n1,c.wav,Three.\n", GOOD),
        ("t.csv", "path,sentence,votes\na.wav,One.,1\nb.wav,Two\rand more.,1\nc.wav,Three.,1\n", GOOD),
    ],
)
def test_rows_that_are_not_whole_are_counted_with_their_line(tmp_path, name, broken, kept):
    result, rows = imported(tmp_path, name, broken)
    assert rows == kept and 1 <= sum(result.skipped.values()) <= 2
    places = [place for reason in result.skipped for place in result.examples[reason]]
    assert all(f"{name}:" in place for place in places) and any(
        place.endswith((":3", ":4", ":5")) for place in places
    )


def test_a_quoted_text_over_two_lines_is_one_row(tmp_path):
    result, rows = imported(tmp_path, "t.csv", 'path,sentence\na.wav,"One\nand two."\nb.wav,Three.\n')
    assert not result.skipped and rows == [("a.wav", "One\nand two."), ("b.wav", "Three.")]


@pytest.mark.parametrize("sign", [",", ";", "\t"])
def test_a_csv_is_apart_by_what_its_header_is(tmp_path, sign):
    """Spreadsheets write semicolons where the comma is a decimal sign."""
    lines = [["path", "sentence"], ["a.wav", '"One; two, \tthree, ""four""."'], ["b.wav", "Three."]]
    content = "\ufeff" + "".join(sign.join(line) + "\r\n" for line in lines)
    result, rows = imported(tmp_path, "t.csv", content)
    assert not result.skipped and rows == [("a.wav", 'One; two, \tthree, "four".'), ("b.wav", "Three.")]


@pytest.mark.parametrize("told", ["sep=|\r\n", '\ufeff"SEP=|"\n'])
def test_a_csv_that_tells_excel_what_stands_between_its_cells(tmp_path, told):
    content = told + 'path|sentence\na.wav|"One, two;\nthree."\nb.wav|x|y\nc.wav|Four.\n'
    result, rows = imported(tmp_path, "t.csv", content)
    assert rows == [("a.wav", "One, two;\nthree."), ("c.wav", "Four.")]
    (reason,) = result.skipped
    assert result.examples[reason] == [f"{tmp_path}/t.csv:5"]
    (tmp_path / "one.csv").write_text(told + "sentence\nOne, two.\n")
    assert [row for _, row in read_rows(tmp_path / "one.csv")] == [{"sentence": "One, two."}]


def test_quotes_of_a_csv_in_a_tsv_are_told(tmp_path):
    content = 'path\tsentence\na.wav\t"He said ""one""."\nb.wav\t"Two."\nc.wav\t"Three," he said, "four."\n'
    result, rows = imported(tmp_path, "t.tsv", content)
    assert [text for _, text in rows] == ['"He said ""one""."', '"Two."', '"Three," he said, "four."']
    ((note, places),) = ((note, result.examples[note]) for note in result.notes if "quotes" in note)
    assert result.notes[note] == 1 and places == [f"{tmp_path}/t.tsv:2"]
    _, rows = imported(tmp_path, "t.csv", content)  # what the note says to do
    assert rows[0] == ("a.wav", 'He said "one".')


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_a_table_in_another_encoding_gets_advice(tmp_path, encoding):
    (tmp_path / "t.csv").write_bytes("path,sentence\na.wav,Übung\n".encode(encoding))
    with pytest.raises(ManifestError, match="UTF-8"):
        import_manifest("table", tmp_path / "t.csv", tmp_path / "m.jsonl", Options({}, COLUMNS))


def test_sounds_that_are_not_there_are_told(tmp_path):
    """Clips are in a folder of their own in Common Voice: without --audio-root none is found."""
    miniatures.sound(tmp_path / "a.wav", 1.0)
    result, rows = imported(tmp_path, "t.tsv", "path\tsentence\na.wav\tOne.\nb.wav\tTwo.\n")
    assert len(rows) == 2 and result.notes == {"sound that is missing, empty or cannot be read": 1}
    assert result.examples["sound that is missing, empty or cannot be read"] == ["b.wav"]


def test_an_import_of_nothing_leaves_what_was_there(tmp_path):
    imported(tmp_path, "t.tsv", "path\tsentence\na.wav\tOne.\n")
    result, rows = imported(tmp_path, "t.tsv", "path\tsentence\na.wav\n")
    assert not result.rows and result.skipped and rows == [("a.wav", "One.")]


# ---- corpora


def test_audiocaps_captions_that_run_over_their_line(tmp_path):
    """Three of the official 2.0 table do; the sounds of their neighbours stay what they were."""
    miniatures.audiocaps(tmp_path)
    header = "audiocap_id,youtube_id,start_time,caption\n"
    lines = ["1,aaa,0,Wind", "2,bbb,0,A man talks", " and laughs", "3,ccc,0,Rain", "4,ddd,0,A dog, barking"]
    (tmp_path / "dataset" / "train.csv").write_text(header + "\n".join(lines) + "\n")
    for video in ("aaa", "bbb", "ccc", "ddd"):
        miniatures.sound(tmp_path / "audio" / "train" / f"{video}.wav", 1.0)
    (report,) = prepare("audiocaps", tmp_path, tmp_path / "out", splits=["train"])
    assert [row.text for row in Manifest(report.manifest)] == ["Wind", "Rain"]
    assert sum(report.left_out.values()) == 3
    assert {place for places in report.examples.values() for place in places} == {
        "train.csv:3", "train.csv:4", "train.csv:6",
    }  # fmt: skip


def test_clotho_rows_with_too_few_captions(tmp_path):
    ids = miniatures.clotho(tmp_path / "c")["development"]
    table = tmp_path / "c" / "clotho_captions_development.csv"
    table.write_text(table.read_text() + "cut.wav,A caption that runs\nover its line,b,c,d\n")
    (report,) = prepare("clotho", tmp_path / "c", tmp_path / "out", splits=["development"])
    assert [row.id for row in Manifest(report.manifest)] == ids and sum(report.left_out.values()) == 2


@pytest.mark.parametrize("inside", ["\t", "\n", "\r"])
@pytest.mark.parametrize("table", ["sentences", "translations"])
def test_covost_texts_that_are_cut_apart(tmp_path, inside, table):
    """The sentence of clip 3 (dev): never half of it with the whole translation, or the other way round."""
    miniatures.covost2(tmp_path)
    file = (
        tmp_path / "cv-corpus-4-2019-12-10/en/validated.tsv"
        if table == "sentences"
        else tmp_path / "covost_v2.en_ja.tsv"
    )
    text = "Only in dev." if table == "sentences" else "開発。"
    half = len(text) // 2
    cut = text[:half] + inside + text[half:]
    file.write_bytes(file.read_bytes().replace(text.encode(), cut.encode()))
    wanted = [] if inside != "\r" else [text[:half] + " " + text[half:]]
    try:
        (report,) = prepare("covost2", tmp_path, tmp_path / "out", splits=["dev"], direction="en-ja")
    except ManifestError as error:
        assert not wanted and "a row with" in str(error)
        return
    rows = list(Manifest(report.manifest))
    assert [row.text if table == "sentences" else row.translation for row in rows] == wanted
    (other,) = prepare("covost2", tmp_path, tmp_path / "out", splits=["train"], direction="en-ja")
    assert other.rows == 2


def test_covost_marks_translations_to_be_removed(tmp_path):
    miniatures.covost2(tmp_path)
    file = tmp_path / "covost_v2.en_ja.tsv"
    file.write_text(file.read_text().replace("バックスラッシュ。", "REMOVE"))
    (report,) = prepare("covost2", tmp_path, tmp_path / "out", splits=["train"], direction="en-ja")
    assert report.rows == 1 and report.left_out["REMOVE in place of a translation"] == 1
