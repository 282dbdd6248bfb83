"""`data check` finds each kind of harm, says where, and passes what is sound."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from aista.audio import write_audio
from aista.cli.data import app
from aista.data.checks import KINDS, check
from aista.data.manifest import Manifest, Utterance, write_manifest
from aista.errors import ConfigError
from aista.text.prompts import chinese_form


def noise(seconds: float, level: float = 0.1) -> np.ndarray:
    return np.clip(np.random.default_rng(0).normal(0, level, round(seconds * 16_000)), -1, 1)


@pytest.fixture
def folder(tmp_path):
    write_audio(tmp_path / "good.wav", noise(2))
    write_audio(tmp_path / "silent.wav", np.zeros(32_000))
    write_audio(tmp_path / "clipped.wav", noise(2, 3.0))
    write_audio(tmp_path / "offset.wav", noise(2) + 0.3)
    write_audio(tmp_path / "long.wav", noise(31))
    write_audio(tmp_path / "blip.wav", noise(0.05))
    (tmp_path / "empty.wav").touch()
    (tmp_path / "garbage.wav").write_bytes(b"RIFFgarbage" * 100)
    return tmp_path


GOOD = {"id": "u", "audio": "good.wav", "duration": 2.0, "text": "A good clip.", "task": "asr"}
HARMS = {
    "no rows": [],
    "bad row": [{**GOOD, "lang": "en"}],
    "duplicate id": [GOOD, GOOD],
    "unreadable audio": [{**GOOD, "audio": "missing.wav"}],
    "no target": [{**GOOD, "task": "st", "tgt_lang": "zh"}],
    "no transcript": [{**GOOD, "text": None, "task": "st", "tgt_lang": "zh", "translation": "一个好片段。"}],
    "unknown language": [{**GOOD, "src_lang": "xx"}],
    "duration mismatch": [{**GOOD, "duration": 1.0}],
    "no duration": [{k: v for k, v in GOOD.items() if k != "duration"}],
    "long audio": [{**GOOD, "audio": "long.wav", "duration": 31.0}],
    "short audio": [{**GOOD, "audio": "blip.wav", "duration": 0.05}],
    "silent audio": [{**GOOD, "audio": "silent.wav"}],
    "odd audio": [{**GOOD, "audio": "offset.wav"}],
    "clipped audio": [{**GOOD, "audio": "clipped.wav"}],
    "empty text": [{**GOOD, "text": "  "}],
    "odd text": [{**GOOD, "text": "ALL CAPITALS HERE"}],
    "odd language": [{**GOOD, "task": "st", "tgt_lang": "ja", "translation": "这完全不是日语而是中文。"}],
    "mixed Chinese": [{**GOOD, "src_lang": "zh", "text": "這是一個好東西, 这是一个好东西。"}],
    "odd rate": [{**GOOD, "text": "word " * 40}],
}


def run(folder, rows, **options):
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return check(Manifest(folder / "m.jsonl"), **options)


def test_every_kind_has_its_harm():
    assert set(HARMS) == set(KINDS)


@pytest.mark.parametrize("kind", HARMS)
def test_each_harm_is_found_alone(folder, kind):
    report = run(folder, HARMS[kind], decode=True)
    assert list(report.problems) == [kind]
    assert report.problems[kind].count == 1 and "m.jsonl" in report.problems[kind].examples[0]
    assert report.ok == (KINDS[kind][0] == "warning")


def test_a_sound_manifest_passes(folder):
    rows = [
        GOOD,
        {**GOOD, "id": "v", "task": "st", "tgt_lang": "zh", "translation": "一个好片段。", "corpus": "c"},
    ]
    report = run(folder, rows, decode=True)
    assert report.ok and not report.problems and report.rows == 2
    assert report.hours == pytest.approx(4 / 3600) and sum(report.histogram) == 2
    assert report.rows_by_task == {"asr": 1, "st": 1} and report.rows_by_direction == {"en": 1, "en-zh": 1}
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True


@pytest.mark.parametrize("name", ["missing.wav", "empty.wav", "garbage.wav", "."])
def test_headers_alone_find_missing_empty_and_corrupt_files(folder, name):
    assert list(run(folder, [{**GOOD, "audio": name}]).problems) == ["unreadable audio"]


def test_spans_of_one_file_are_no_mismatch_but_must_lie_in_it(folder):
    spans = [
        {**GOOD, "id": f"u{i}", "audio": "long.wav", "offset": 5.0 * i, "duration": 5.0} for i in range(6)
    ]
    assert not run(folder, spans).problems
    assert list(run(folder, [{**GOOD, "offset": 1.5}]).problems) == ["unreadable audio"]
    assert list(run(folder, [{**GOOD, "offset": 1.5}], decode=True).problems) == ["unreadable audio"]


def test_a_clip_with_two_translations_has_one_span(folder):
    rows = [
        {**GOOD, "id": code, "duration": 1.0, "task": "st", "tgt_lang": code, "translation": "Gut."}
        for code in ("de", "nl")
    ]
    assert run(folder, rows).problems["duration mismatch"].count == 2


@pytest.mark.parametrize("mark", "\u200b\u200c\u200d\ufeff\u00ad\u2060\u200e\u202e\u2066")
def test_invisible_characters_are_odd(folder, mark):
    for field, text in (("text", f"do{mark}or"), ("translation", f"门{mark}开")):
        row = {**GOOD, "task": "st", "tgt_lang": "zh", "translation": "门开", field: text}
        problem = run(folder, [row]).problems
        if field == "translation" and mark in "\u200c\u200d":
            continue  # after a letter that is not Latin a joiner may belong there
        assert list(problem) == ["odd text"] and f"U+{ord(mark):04X}" in problem["odd text"].examples[0]


@pytest.mark.parametrize(
    "text", ["می\u200cخواهم بروم", "क्\u200dष है", "👩\u200d👧 laugh", "❤\ufe0f love", "نامه\u200cای"]
)
def test_joiners_belong_to_scripts_that_need_them(folder, text):
    assert "odd text" not in run(folder, [{**GOOD, "text": text}]).problems


@pytest.mark.parametrize("mark", "\u2018\u201b\u2032\u02b9\u02bc\u02c8\u00b4`\uff07")
def test_marks_in_place_of_apostrophes_are_odd(folder, mark):
    problem = run(folder, [{**GOOD, "text": f"I don{mark}t know."}]).problems
    assert list(problem) == ["odd text"] and f"U+{ord(mark):04X}" in problem["odd text"].examples[0]


@pytest.mark.parametrize(
    "text", ["I don't know.", "I don’t know.", "the ‘right’ one", "Hawai‘", "5′ tall", "日本‘語"]
)
def test_right_apostrophes_and_quotes_are_not(folder, text):
    assert "odd text" not in run(folder, [{**GOOD, "text": text}]).problems


@pytest.mark.parametrize("text", ["\u200b", " \ufeff ", "\u00ad\u2060", "\u3164"])
def test_a_text_that_nobody_sees_is_empty(folder, text):
    assert list(run(folder, [{**GOOD, "text": text}]).problems) == ["empty text"]


def test_an_empty_manifest_is_not_fit(folder):
    (folder / "empty.jsonl").write_text("\n\n")
    done = CliRunner().invoke(app, ["check", str(folder / "empty.jsonl")])
    assert done.exit_code == 1 and "no rows" in " ".join(done.stdout.split())


@pytest.mark.slow
def test_many_problems_give_few_examples(folder):
    report = run(folder, [{**GOOD, "id": f"u{i}", "text": ""} for i in range(2100)])
    assert report.problems["empty text"].count == 2100 and len(report.problems["empty text"].examples) == 5


@given(st.lists(st.binary(max_size=60), max_size=5))
@settings(max_examples=40, deadline=None)
def test_any_file_is_checked_without_a_traceback(tmp_path_factory, lines):
    path = tmp_path_factory.getbasetemp() / "fuzz-check.jsonl"
    path.write_bytes(b"\n".join(lines))
    report = check(Manifest(path))
    assert not report.ok and (report.rows == 0) == ("no rows" in report.problems)


def test_command_line(folder):
    write_manifest(folder / "good.jsonl", [Utterance(**GOOD)])
    (folder / "bad.jsonl").write_text('{"id": "x"}\n')
    runner = CliRunner()
    good = runner.invoke(app, ["check", str(folder / "good.jsonl"), "--decode"])
    assert good.exit_code == 0 and "fit to train on" in " ".join(good.stdout.split())
    bad = runner.invoke(app, ["check", str(folder / "bad.jsonl")])
    assert bad.exit_code == 1 and "bad row" in " ".join(bad.stdout.split())
    both = runner.invoke(app, ["check", str(folder / "good.jsonl"), str(folder / "bad.jsonl"), "--json"])
    assert both.exit_code == 1 and [r["ok"] for r in json.loads(both.stdout)] == [True, False]
    shown = runner.invoke(app, ["show", str(folder / "good.jsonl"), "--json"])
    assert json.loads(shown.stdout)["file"].startswith("2.000 s, 16000 Hz")
    assert "A good clip." in runner.invoke(app, ["show", str(folder / "good.jsonl"), "--id", "u"]).stdout
    for option in ("--from", "--count"):
        both = runner.invoke(app, ["show", str(folder / "good.jsonl"), "--id", "u", option, "0"])
        assert isinstance(both.exception, ConfigError) and "--id shows one row" in str(both.exception)
    rows = [Utterance(**{**GOOD, "id": f"u{number}"}) for number in range(5)]
    write_manifest(folder / "five.jsonl", rows)
    for options, expected in (("", "u0 u1 u2"), ("--from 3", "u3 u4"), ("-n 1 --from 1", "u1")):
        shown = runner.invoke(app, ["show", str(folder / "five.jsonl"), "--json", *options.split()])
        assert [json.loads(row)["id"] for row in shown.stdout.strip().split("\n")] == expected.split()
    beyond = runner.invoke(app, ["show", str(folder / "five.jsonl"), "--from", "5"]).exception
    assert isinstance(beyond, ConfigError) and "no row 5" in str(beyond) and "5 rows" in str(beyond)


def test_strict_makes_warnings_errors(folder):
    write_manifest(folder / "warned.jsonl", [Utterance(**{**GOOD, "text": "SHOUTED TRANSCRIPTS"})])
    runner = CliRunner()
    assert runner.invoke(app, ["check", str(folder / "warned.jsonl")]).exit_code == 0
    assert runner.invoke(app, ["check", str(folder / "warned.jsonl"), "--strict"]).exit_code == 1


def test_real_recordings_pass(shared_dir, tmp_path):
    files = sorted(p for p in (shared_dir / "audio").iterdir() if p.suffix != ".md")
    write_manifest(
        tmp_path / "real.jsonl", [Utterance(id=p.name, audio=str(p), text="Some words.") for p in files]
    )
    report = check(Manifest(tmp_path / "real.jsonl"), decode=True)
    assert report.ok and report.rows == len(files) == 8
    assert set(report.problems) == {"no duration", "odd audio"}
    assert [row.split()[1] for row in report.problems["odd audio"].examples] == [
        "stereo.opus:"
    ]  # a real DC offset
    assert report.hours * 3600 == pytest.approx(55.7, abs=0.2)


# Pairs that a person can check; drawn together with characters that both forms share.
BOTH = list("人大小山水火木日月天地中文好不在有我你他是的一二三")
PAIRS = list(
    zip(
        "这个说们时会对发车东马鸟鱼门风飞龙国学书语话见长电",
        "這個說們時會對發車東馬鳥魚門風飛龍國學書語話見長電",
        strict=True,
    )
)


@given(st.lists(st.sampled_from(BOTH)), st.lists(st.sampled_from(PAIRS), min_size=1))
def test_the_form_of_chinese_is_known_by_its_characters(shared, pairs):
    simplified, traditional = ("".join(shared) + "".join(pair[i] for pair in pairs) for i in (0, 1))
    assert chinese_form("".join(shared) + "着温") is None
    assert (chinese_form(simplified), chinese_form(traditional)) == ("simplified", "traditional")
    assert chinese_form(simplified + traditional) == "mixed"


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 2))
@settings(max_examples=20, deadline=None)
def test_the_rarer_form_of_chinese_is_counted(tmp_path_factory, simplified, traditional, mixed):
    texts = ["这是好车"] * simplified + ["這是好車"] * traditional + ["这是好車"] * mixed + ["好"]
    values = {"task": "mt", "text": "Good.", "tgt_lang": "zh"}
    rows = [{"id": f"u{number}", **values, "translation": text} for number, text in enumerate(texts)]
    found = run(tmp_path_factory.mktemp("forms"), rows).problems
    many = min(simplified, traditional) + mixed
    assert (found["mixed Chinese"].count if many else 0) == many and ("mixed Chinese" in found) == (many > 0)
