"""A line of JSON ends at a line feed and nowhere else, whoever reads it."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aista.data.manifest import Manifest, Utterance, write_manifest
from aista.data.text_files import read_json_lines, write_json_lines
from aista.errors import ManifestError
from aista.evaluation.decode import Hypothesis, read_hypotheses

ROOT = Path(__file__).parents[2]
# Where str.splitlines ends a line and JSON does not.
SEPARATORS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r"
odd = st.text(alphabet=SEPARATORS + 'ab 你\n"\\', min_size=1, max_size=12)


@given(texts=st.lists(odd, min_size=1, max_size=5))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_come_back_whatever_their_texts_hold(tmp_path, texts):
    write_json_lines(tmp_path / "rows.jsonl", [{"text": text} for text in texts])
    assert [row["text"] for _, row in read_json_lines(tmp_path / "rows.jsonl")] == texts
    rows = [
        Utterance(id=f"{i}{text}", audio=f"{text}.wav", task="st", tgt_lang="zh", text=text, translation=text)
        for i, text in enumerate(texts)
    ]
    write_manifest(tmp_path / "m.jsonl", rows)
    assert list(Manifest(tmp_path / "m.jsonl")) == rows
    kept = [Hypothesis(row.id, "st", "zh", row.text, row.text, row.text, error=row.text) for row in rows]
    path = tmp_path / "m.speech.jsonl"
    lines = [row.line() for row in kept]
    path.write_text("".join(lines) + lines[0][:9], encoding="utf-8", newline="\n")  # cut off by a crash
    assert read_hypotheses(path) == kept and read_hypotheses(path) == kept


@pytest.mark.parametrize("mark", SEPARATORS)
def test_the_line_of_an_error_is_an_editors(tmp_path, mark):
    good = json.dumps({"text": f"a{mark}b"}, ensure_ascii=False)
    (tmp_path / "rows.jsonl").write_text(f"{good}\n\n{good}\nno json\n", encoding="utf-8", newline="\n")
    with pytest.raises(ManifestError, match=r"rows\.jsonl:4: no JSON"):
        list(read_json_lines(tmp_path / "rows.jsonl"))


def test_a_packed_file_that_is_cut_off_is_named(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    write_json_lines(path, [{"text": str(number)} for number in range(9999)])
    assert len(list(read_json_lines(path))) == 9999
    whole = path.read_bytes()
    for broken in (whole[:-9], whole[:99] + bytes(99) + whole[198:]):
        path.write_bytes(broken)
        with pytest.raises(ManifestError, match=r"rows\.jsonl\.gz: cannot be read"):
            list(read_json_lines(path))


def test_nobody_splits_json_lines_as_text():
    """A loop or a comprehension that holds ``splitlines`` and ``loads`` would be such a reader."""
    files = [path for room in ("src", "benchmarks", "tests", "tools") for path in (ROOT / room).rglob("*.py")]
    assert len(files) > 100
    loops = (ast.For, ast.ListComp, ast.GeneratorExp, ast.SetComp, ast.DictComp)
    for path in files:
        code = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(code)) if "splitlines" in code and "loads" in code else ():
            if isinstance(node, loops):
                names = {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
                assert not {"splitlines", "loads"} <= names, f"{path}:{node.lineno}"
