"""Settings: nothing unknown, nothing ignored, the same after a save and a load."""

from __future__ import annotations

import importlib
import math
import os
import pkgutil
from pathlib import Path
from typing import Any, get_args

import annotated_types
import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

import aista
from aista.config import (
    AlignSettings,
    JointSettings,
    PretrainSettings,
    SelectSettings,
    Settings,
    TrainSettings,
)
from aista.errors import ConfigError
from aista.evaluation.evaluate import BaselineSettings, EvaluateSettings
from aista.settings_text import as_yaml, override, read_settings

JOINT = {"output": "o", "init": "i", "data": {"train": ["m"], "validation": ["v"]}}
MINIMAL = {"output": "o", "model": {"speech_encoder": "w", "backbone": "b"}, "data": {"train": ["m.jsonl"]}}


def test_defaults_are_the_papers() -> None:
    train = PretrainSettings.of(MINIMAL).train
    assert (train.max_steps, train.warmup_steps, train.weight_decay) == (80_000, 9_000, 0.05)
    assert (train.learning_rate, train.warmup_start_learning_rate, train.min_learning_rate) == (
        3e-5,
        1e-6,
        1e-5,
    )
    lora = PretrainSettings.of(MINIMAL).model.lora
    assert (lora.r, lora.alpha, lora.dropout) == (8, 32, 0.1)
    joint = JointSettings.of(JOINT)
    assert (joint.alignment.alpha, joint.train.patience, joint.train.eval_steps) == (0.99, 4, 3_000)
    assert SelectSettings.of({"output": "o", "model": "m", "data": ["d"]}).threshold == 0.05


def test_save_and_load_give_equal_settings(tmp_path: Path) -> None:
    settings = PretrainSettings.of(MINIMAL)
    settings.save(tmp_path / "s.yaml")
    again = PretrainSettings.load(tmp_path / "s.yaml")
    assert again == settings and again.sha256() == settings.sha256()


def test_overrides_reach_nested_settings(tmp_path: Path) -> None:
    PretrainSettings.of(MINIMAL).save(tmp_path / "s.yaml")
    changed = PretrainSettings.load(tmp_path / "s.yaml", ["seed=7", "model.lora.targets=[a, b]"])
    assert changed.seed == 7 and changed.model.lora.targets == ["a", "b"]


@pytest.mark.parametrize(
    "override", ["train.max_stepz=7", "trian.max_steps=7", "train.max_steps=many", "nonsense"]
)
def test_what_is_unknown_or_wrong_is_named(tmp_path: Path, override: str) -> None:
    PretrainSettings.of(MINIMAL).save(tmp_path / "s.yaml")
    with pytest.raises(ConfigError) as error:
        PretrainSettings.load(tmp_path / "s.yaml", [override])
    assert override.split("=")[0].split(".")[-1] in str(error.value) or "trian" in str(error.value)


def test_unreadable_files_are_config_errors(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [1")
    (tmp_path / "list.yaml").write_text("- 1")
    for name in ("missing.yaml", "bad.yaml", "list.yaml"):
        with pytest.raises(ConfigError):
            PretrainSettings.load(tmp_path / name)


def test_patience_without_validation_is_refused() -> None:
    with pytest.raises(ConfigError, match="eval_steps"):
        TrainSettings.of({"patience": 4})
    with pytest.raises(ConfigError, match="multiple"):
        TrainSettings.of({"eval_steps": 300, "save_steps": 1_000})


# ---- every field of every class of settings


def _settings_classes() -> list[type[Settings]]:
    for module in pkgutil.walk_packages(aista.__path__, "aista."):
        if module.name.endswith(("settings", "config", "answering", "translating")):
            importlib.import_module(module.name)
    found, todo = set(), [Settings]
    while todo:
        children = todo.pop().__subclasses__()
        todo += children
        found.update(kind for kind in children if kind.__name__.endswith("Settings"))
    return sorted(found, key=lambda kind: kind.__name__)


CLASSES = _settings_classes()
# The least that each class needs.
LEAST: dict[str, dict[str, Any]] = {
    "ModelSettings": MINIMAL["model"],
    "DataSettings": {"train": ["m"]},
    "AlignSettings": {**MINIMAL, "data": {"train": ["m"], "validation": ["v"]}},
    "PretrainSettings": MINIMAL,
    "JointSettings": JOINT,
    "SelectSettings": {"output": "o", "model": "m", "data": ["d"]},
    "ProbeSettings": {"output": "o", "models": ["m"], "data": ["d"]},
    "EvaluateSettings": {"output": "o", "model": "m", "data": ["d"]},
    "ScoreSettings": {"output": "o", "data": ["d"]},
    "BaselineSettings": {"output": "o", "data": ["d"], "baseline": "b"},
}  # type: ignore[dict-item]


def least(kind: type[Settings]) -> dict[str, Any]:
    return dict(LEAST.get(kind.__name__, {}))


def _types(annotation: Any) -> set[Any]:
    inner = set().union(*map(_types, get_args(annotation))) if get_args(annotation) else set()
    return inner | {annotation}


def fields(*wanted: type) -> list[Any]:
    return [
        pytest.param(kind, name, id=f"{kind.__name__}.{name}")
        for kind in CLASSES
        for name, field in kind.model_fields.items()
        if _types(field.annotation) & set(wanted)
    ]


def test_the_walk_finds_the_classes() -> None:
    names = {kind.__name__ for kind in CLASSES}
    assert names >= {"TrainSettings", "GenerationSettings", "EvaluateSettings", *LEAST}


SECTIONS = [
    (kind, name, key)
    for kind in CLASSES
    for name, field in kind.model_fields.items()
    if isinstance(section := field.default, Settings)
    for key in type(section).model_fields
]


@pytest.mark.parametrize(("kind", "name", "key"), SECTIONS, ids=lambda part: getattr(part, "__name__", part))
def test_a_key_of_a_section_leaves_its_neighbours(
    tmp_path: Path, kind: type[Settings], name: str, key: str
) -> None:
    """In a file, by --set, and by --set over a file: one key given at its default changes nothing at all."""
    plain = kind.of(least(kind))
    value = getattr(plain, name).model_dump(mode="json")[key]
    (tmp_path / "least.yaml").write_text(as_yaml(least(kind)))
    (tmp_path / "one.yaml").write_text(as_yaml({**least(kind), name: {key: value}}))
    said = f"{name}.{key}={as_yaml({'x': value}).removeprefix('x:').strip()}"
    if isinstance(value, (dict, list)) and value:
        said = f"{name}.{key}={as_flow(value)}"
    assert kind.load(tmp_path / "one.yaml") == plain
    assert kind.load(tmp_path / "least.yaml", [said]) == plain
    assert kind.load(tmp_path / "one.yaml", [said]) == plain


def as_flow(value: Any) -> str:
    import json

    return json.dumps(value)


def test_the_sections_of_stage_three_are_its_own() -> None:
    """What a file that names one key of it once lost."""
    one = JointSettings.of({**JOINT, "train": {"per_device_train_batch_size": 2}}).train
    assert (one.max_steps, one.warmup_steps, one.eval_steps) == (90_000, 3_000, 3_000)
    assert (one.save_steps, one.patience, one.per_device_train_batch_size) == (3_000, 4, 2)
    assert PretrainSettings.of({**MINIMAL, "alignment": {"alpha": 0.5}}).alignment.method == "none"


def refused(kind: type[Settings], name: str, value: Any) -> str:
    with pytest.raises(ConfigError) as error:
        kind.of({**least(kind), name: value})
    return str(error.value)


@pytest.mark.parametrize(("kind", "name"), fields(int, float))
def test_every_number_has_its_range(kind: type[Settings], name: str) -> None:
    """A negative one, NaN, the infinities, a switch and a word are refused, by the field's name."""
    many = list in {getattr(t, "__origin__", t) for t in _types(kind.model_fields[name].annotation)}
    bounds = [bound for bound in _metadata(kind.model_fields[name]) if isinstance(bound, LOWER)]
    assert bounds, "no lower bound"
    for value in (-1e9, math.nan, math.inf, -math.inf, True, "many", "1:30", [], {}):
        if value == [] and many:
            continue
        assert name in refused(kind, name, [value] if many else value)
    for bound in bounds:
        limit = getattr(bound, "ge", None) if hasattr(bound, "ge") else bound.gt
        below = limit - 1 if hasattr(bound, "ge") else limit
        assert name in refused(kind, name, [below] if many else below)


LOWER = (annotated_types.Ge, annotated_types.Gt)


def _metadata(field: FieldInfo) -> list[Any]:
    inner = [m for t in _types(field.annotation) for m in getattr(t, "__metadata__", ())]
    nested = [m for each in inner if isinstance(each, FieldInfo) for m in each.metadata]
    return [*field.metadata, *inner, *nested]


@pytest.mark.parametrize(("kind", "name"), fields(bool))
def test_every_switch_understands_yes_and_no(kind: type[Settings], name: str) -> None:
    for text, value in {"no": False, "yes": True, "off": False, "true": True, "False": False}.items():
        assert getattr(kind.load(None, [f"{name}={text}"], least(kind)), name) is value
    assert name in refused(kind, name, "perhaps") and name in refused(kind, name, 2)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"warmup_steps": 11, "max_steps": 10}, "warmup_steps (11) must not exceed max_steps (10)"),
        ({"max_steps": -1}, "max_steps"),
        ({"max_steps": 0}, "max_steps"),
        ({"max_steps": 10, "warmup_steps": 1, "eval_steps": 20, "save_steps": 20}, "eval_steps (20)"),
        ({"learning_rate": 1e-6}, "min_learning_rate (1e-05) must not exceed learning_rate (1e-06)"),
        ({"warmup_start_learning_rate": 1e-3}, "warmup_start_learning_rate (0.001)"),
        ({"adam_beta1": 1.5}, "adam_beta1"),
        ({"logging_steps": 0}, "logging_steps"),
    ],
)
def test_settings_that_contradict_one_another(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        TrainSettings.of(values)
    assert said in str(error.value)


def test_heads_share_the_width() -> None:
    model = {**MINIMAL["model"], "qformer": {"hidden_size": 100}}  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match=r"multiple of num_attention_heads \(12\)"):
        PretrainSettings.of({**MINIMAL, "model": model})


def test_what_a_model_says_itself_is_not_said_beside_it() -> None:
    for said in ({"lora": {"r": 16}}, {"dtype": "bfloat16"}):
        with pytest.raises(ConfigError, match=r"model\.lora and model\.dtype"):
            PretrainSettings.of({**MINIMAL, **said})
    saved = PretrainSettings.of(MINIMAL).model_dump()  # the usual values say nothing
    assert PretrainSettings.of(saved).lora.r == 8
    assert PretrainSettings.of({**MINIMAL, "model": None, "init": "m", "lora": {"r": 16}}).lora.r == 16


def test_validation_needs_data_and_data_is_validated_on() -> None:
    for stage, some in ((JointSettings, JOINT), (AlignSettings, MINIMAL)):
        with pytest.raises(ConfigError, match=r"data\.validation names nothing"):
            stage.of({**some, "data": {"train": ["m"]}})
    none = {"eval_steps": None, "patience": None}
    assert JointSettings.of({**JOINT, "data": {"train": ["m"]}, "train": none}).train.eval_steps is None
    data = {"train": ["m"], "validation": ["v"]}
    settings = PretrainSettings.of({**MINIMAL, "data": data, "train": {"save_steps": 50}})
    assert settings.train.eval_steps == 50 and PretrainSettings.of(settings.model_dump()) == settings
    for stage, some in ((JointSettings, JOINT), (AlignSettings, MINIMAL)):  # their own default is another
        train = {"max_steps": 90, "warmup_steps": 9}
        found = stage.of({**some, "data": data, "train": {**train, "save_steps": 40}}).train
        assert (found.eval_steps, found.save_steps) == (40, 40)
        asked = stage.of({**some, "data": data, "train": {**train, "save_steps": 40, "eval_steps": 20}}).train
        assert (asked.eval_steps, asked.save_steps) == (20, 40)
    rarely = AlignSettings.of({**MINIMAL, "data": data, "train": {"save_steps": 1_000}}).train
    assert (rarely.eval_steps, rarely.max_steps) == (50, 300)  # what fits stays
    short = {"max_steps": 20, "warmup_steps": 2}
    with pytest.raises(ConfigError, match=r"set train\.eval_steps"):
        PretrainSettings.of({**MINIMAL, "data": data, "train": short})


# ---- values as people write them


def options(text: str) -> Any:
    values: dict[str, Any] = {}
    override(values, f"options.x={text}")
    return values["options"]["x"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5), ("3E4", 3e4), ("1e-1", 0.1), (".5", 0.5), ("5.", 5.0), ("-2.5e+3", -2500.0),
        ("010", 10), ("0123", 123), ("-7", -7), ("+7", 7), ("1_000", 1000), ("0x1F", 31), ("0o17", 15),
        ("1:30", "1:30"), ("12:30:45", "12:30:45"), ("2026-01-31", "2026-01-31"), ("1.2.3", "1.2.3"),
        ("no", "no"), ("on", "on"), ("y", "y"), ("true", True), ("FALSE", False), ("null", None), ("~", None),
        ("", None), ('"010"', "010"), ("'no'", "no"), ("[1e-3, no, 08]", [1e-3, "no", 8]),
        ("{a: 1e-2, b: [off]}", {"a": 0.01, "b": ["off"]}), ("runs/x #1", "runs/x #1"), ("@x", "@x"),
        ("*glob", "*glob"), ("%x", "%x"), ("&x", "&x"), ("!x", "!x"), ("a: b", "a: b"), ("- a", "- a"),
        ("a=b", "a=b"), ("|", "|"), ("> x", "> x"), ("`x`", "`x`"), ("<<", "<<"), ("x]", "x]"),
        ("!!python/object/apply:os.system", "!!python/object/apply:os.system"),
        ('"\\ud83c\\udf99"', "\U0001f399"),
    ],
)  # fmt: skip
def test_a_value_is_what_it_looks_like(tmp_path: Path, text: str, value: Any) -> None:
    """Of an open type on the command line; and what is saved is read back as the same."""
    found = options(text)
    assert found == value and type(found) is type(value)
    (tmp_path / "s.yaml").write_text(as_yaml({"x": value}), encoding="utf-8")
    again = read_settings(tmp_path / "s.yaml")["x"]
    assert again == value and type(again) is type(value)


@pytest.mark.parametrize("text", ["1e-5", "1e-1", "010", "0123", "1:30", "no", "2026-01-31", "1_000"])
def test_a_file_reads_plain_values_as_the_command_line_does(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.yaml").write_text(f"x: {text}\ny: {{z: {text}}}\n")
    assert read_settings(tmp_path / "s.yaml") == {"x": options(text), "y": {"z": options(text)}}


@pytest.mark.slow
@hypothesis.settings(deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=4,
    )
)  # fmt: skip
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    path.write_text(as_yaml(values), encoding="utf-8", newline="")
    assert read_settings(path) == values


@pytest.mark.parametrize(
    "text",
    ["[a", "{a: 1", "'tis", '"open', "[a] #1", "[a] b", "{a: 1, a: 2}", "[!!python/none x]", "[.nan]", ".inf",
     "1e999", '"\\ud83c"', "[*a]", "[@a]"],
)  # fmt: skip
def test_a_broken_value_is_an_error_with_words(text: str) -> None:
    with pytest.raises(ConfigError, match="override"):
        override({}, f"data.train={text}")


@pytest.mark.parametrize("text", ["nonsense", "=3", ".a=1", "a.=1", "a..b=1", " =1", "a.b=1", "a.b.c=1"])
def test_a_broken_key_is_an_error_with_words(text: str) -> None:
    with pytest.raises(ConfigError, match="override"):
        override({"a": 3}, text)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("output: o\ntrain: {max_steps: 2}\ninit: i\ntrain:\n  max_steps: 4\n", "line 4"),
        ("train:\n  max_steps: 2\n  seed: 1\n  max_steps: 2\n", "line 4"),
        ("alignment:\n  options: {p: 1, 'p': 2}\n", "line 2"),
        ("a:\n- b: 1\n- c: 1\n  c: 2\n", "line 4"),
        ("a: &x [*x]\n", "levels"),
        ("a: !!python/object/apply:os.system [ls]\n", "line 1"),
        ("a: 1\n\tb: 2\n", "line 2"),
        ("a: @x\n", "line 1"),
        ("a: .nan\n", "line 1"),
        ("a: 1\n---\nb: 1\n", "line 2"),
        ("a: [" + "[" * 2000, "levels"),
    ],
)
def test_a_broken_file_is_an_error_with_its_line(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ConfigError, match=line):
        JointSettings.load(tmp_path / "s.yaml")


def test_anchors_and_merges_are_no_doubles(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\nc: *a\n")
    found = read_settings(tmp_path / "s.yaml")
    assert found == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 2}}


# ---- names of files

PATHS = [
    (kind, name)
    for kind in CLASSES
    for name in [*kind.contents, *(n for n in ("output", "features") if n in kind.model_fields)]
]


@pytest.mark.parametrize(("kind", "name"), PATHS, ids=lambda part: getattr(part, "__name__", part))
def test_every_path_knows_the_home_folder_and_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Settings], name: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("PLACE", "/data")
    monkeypatch.delenv("NOWHERE", raising=False)
    monkeypatch.chdir(tmp_path)
    many = name in ("train", "validation", "data", "models")

    def read(text: str) -> Any:
        given = {**least(kind), name: [text] if many else text}
        if name == "init":  # a saved model, or new adapters: never both
            given.pop("model", None)
        found = getattr(kind.of(given), name)
        return found[0] if many else found

    assert read("~/x") == "/home/me/x" and read("$HOME/x") == "/home/me/x"
    assert read("${PLACE}/a b#1@%*.jsonl") == "/data/a b#1@%*.jsonl" and read("a~b") == "a~b"
    os.mkdir("$NOWHERE")
    assert read("$NOWHERE") == "$NOWHERE"
    assert "NOWHERE" in refused(kind, name, ["$NOWHERE/x"] if many else "$NOWHERE/x")
    assert "no user" in refused(kind, name, ["~nobody-here/x"] if many else "~nobody-here/x")
    assert name in refused(kind, name, [""] if many else "")


def test_names_of_harmless_and_content_fields_are_fields() -> None:
    for kind in CLASSES:
        assert {*kind.harmless, *kind.contents} <= kind.model_fields.keys(), kind


def test_values_that_are_given_win() -> None:
    got = EvaluateSettings.load(None, ["output=x", "model=m"], {"output": "a #b", "data": ["c: d"]})
    assert got.output == "a #b" and got.data == ["c: d"]
    given_options = ["baseline=b", "output=o", "data=[d]", "options.rate=1e-2", "generation.num_beams=4"]
    assert BaselineSettings.load(None, given_options).options == {"rate": 0.01}


def test_a_type_that_is_not_named_leaves_a_runs_name_as_it_was() -> None:
    plain, named = JointSettings.of(JOINT), JointSettings.of({**JOINT, "dtype": "bfloat16"})
    assert "dtype" not in plain.identity() and plain.sha256() != named.sha256()
    with pytest.raises(ConfigError, match="dtype"):
        JointSettings.of({**JOINT, "dtype": "bf16"})
