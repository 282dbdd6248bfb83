"""`aista reproduce all --scale base`: every stage of the shipped files, on tiny bases and two steps each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aista.cli.experiments import app
from aista.config import AlignSettings
from aista.data.manifest import Manifest, TimedText, Utterance, write_manifest
from aista.errors import ConfigError, ManifestError
from aista.experiments.paper.plan import STAGES, BasePlan, paper_plan, plan_there
from aista.experiments.paper.tables import table2
from aista.experiments.runner import Outcome, recorded
from tests import tiny

SHORT = {
    "max_steps": 2, "eval_steps": 1, "save_steps": 1, "warmup_steps": 1, "per_device_train_batch_size": 3,
}  # fmt: skip


def changes(root: Path) -> list[str]:
    """Tiny bases and two steps, as a user would write them."""
    found = [f"{stage}.train.{k}={v}" for stage in ("align", "pretrain", "joint") for k, v in SHORT.items()]
    return [
        *found, f"align.model.speech_encoder={tiny.whisper(root / 'whisper')}",
        f"align.model.backbone={tiny.language_model(root / 'lm')}", "align.model.speech_window_seconds=2.04",
        "align.model.qformer={hidden_size: 16, num_attention_heads: 2, intermediate_size: 24}",
        "select.num_pairs=4", "select.threshold_times_chance=0.5", "evaluate.limit=3",
        "evaluate.generation.max_new_tokens=4",
    ]  # fmt: skip


def manifests(root: Path) -> Path:
    for part in ("train", "dev", "test"):
        tiny.manifest(root / "data" / f"{part}.jsonl", count=6)
    return root / "data"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], str]:
    root = tmp_path_factory.mktemp("base")
    (root / "data").mkdir()
    data, asked = manifests(root), changes(root)
    words = [
        "reproduce",
        "all",
        "--scale",
        "base",
        "--workers",
        "0",
        "--output",
        str(root / "run"),
        "--data",
        str(data),
    ]
    result = CliRunner().invoke(app, [*words, *(word for text in asked for word in ("--set", text))])
    assert result.exit_code == 0, result.output[-3000:]
    return root, asked, result.output


@pytest.mark.slow
def test_one_command_runs_every_stage_and_leaves_the_page(done: tuple[Path, list[str], str]) -> None:
    root, _, printed = done
    run = root / "run"
    assert json.loads((run / "aligned" / "training.json").read_text())["steps"] == 2
    stage1 = (run / "pretrain" / "settings.yaml").read_text()
    assert f"init: {run / 'aligned'}" in stage1  # stage 1 starts from what was aligned
    for system in ("base", "ai_sta"):
        scores = json.loads(
            (run / "runs" / "base" / system / "seed_1" / "evaluate" / "results.json").read_text()
        )
        assert {"bleu_zh", "wer_en", "mt_bleu_zh"} <= scores["scores"].keys()
    assert "without BEATs and audio captioning" in (run / "report.html").read_text()
    assert "Table 2" in printed
    assert {path.stem for path in (run / "exhibits").glob("*.json")} == {"table2", "table5", "figure4"}
    assert "zero-shot" not in (run / "exhibits" / "table5.json").read_text()  # texts are among the rows
    figure = json.loads((run / "exhibits" / "figure4.json").read_text())
    assert [line["title"] for line in figure["data"]["lines"]] == ["lm"]  # the backbone's, not the system's
    alone = ["joint.data.train=[other.jsonl]", "joint.data.weights=[1.0]"]
    plan = paper_plan("base", run, ["all"], data=root / "data", changes=alone)
    assert plan.training().keys() == {"ST", "ASR"}


@pytest.mark.slow
def test_the_same_command_goes_on_where_it_stopped(done: tuple[Path, list[str], str]) -> None:
    root, asked, _ = done
    plan = paper_plan("base", root / "run", ["all"], data=root / "data", changes=asked)
    assert {job.already() for job in plan.jobs()} == {Outcome.FINISHED}
    longer = paper_plan(
        "base", root / "run", ["all"], data=root / "data", changes=[*asked, "joint.train.max_steps=3"]
    )
    due = [job.name for job in longer.jobs() if job.already() is None]  # evaluations follow their new models
    assert due == ["joint base/base/seed_1", "joint base/ai_sta/seed_1"]
    named = [*asked, "joint.alignment.layers=[0]"]  # the base is aligned nowhere
    plan = paper_plan("base", root / "run", ["all"], data=root / "data", changes=named)
    assert [job.name for job in plan.jobs() if job.already() is None] == ["joint base/ai_sta/seed_1"]


def test_base_and_ai_sta_differ_in_the_alignment_alone(tmp_path: Path) -> None:
    plan = BasePlan(tmp_path, ["all"], data=tmp_path)
    joint = [job.settings for job in plan.jobs() if job.verb == "joint"]
    first, second = (settings.identity() for settings in joint)
    differing = {key for key in first if first[key] != second[key]}
    assert differing == {"alignment.method"}
    assert second["alignment.layers"] == str(plan.layers("base"))
    named = BasePlan(tmp_path, ["all"], data=tmp_path, changes=["joint.alignment.layers=[0, 4]"])
    assert [s.settings.alignment.layers for s in named.jobs() if s.verb == "joint"] == [[0, 4], [0, 4]]
    assert [job.verb for job in plan.jobs()] == [
        "align",
        "pretrain",
        "select",
        "joint",
        "evaluate",
        "joint",
        "evaluate",
    ]


def test_recognition_rows_are_the_same_clips_and_text_rows_the_same_sentences(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    data = manifests(tmp_path)
    plan = BasePlan(tmp_path / "run", ["figure4"], data=data)
    plan.prepare(None)  # type: ignore[arg-type]
    rows, source = Manifest(tmp_path / "run" / "corpus" / "train.asr.jsonl"), Manifest(data / "train.jsonl")
    assert [(row.task, row.text, rows.audio_path(row)) for row in rows] == [
        ("asr", row.text, source.audio_path(row).resolve()) for row in source
    ]
    texts = Manifest(tmp_path / "run" / "corpus" / "train.mt.jsonl")
    assert [(row.task, row.audio, row.text, row.translation, row.tgt_lang) for row in texts] == [
        ("mt", None, row.text, row.translation, row.tgt_lang) for row in source
    ]


@pytest.mark.slow
def test_other_rows_are_not_mixed_with_what_was_trained(done: tuple[Path, list[str], str]) -> None:
    root, asked, _ = done
    before = (root / "data" / "train.jsonl").read_bytes()
    words = ["reproduce", "all", "--scale", "base", "--workers", "0", "--output", str(root / "run")]
    words += ["--data", str(root / "data"), *(word for text in asked for word in ("--set", text))]
    try:
        write_manifest(root / "data" / "train.jsonl", list(Manifest(root / "data" / "train.jsonl"))[1:])
        changed = CliRunner().invoke(app, words)
    finally:
        (root / "data" / "train.jsonl").write_bytes(before)
    again = CliRunner().invoke(app, words)
    assert changed.exit_code != 0 and "train.asr.jsonl" in changed.output
    assert again.exit_code == 0


def test_nothing_is_written_from_rows_that_lack_a_transcript(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    data = manifests(tmp_path)
    silent = [row.model_copy(update={"text": None}) for row in Manifest(data / "test.jsonl")]
    write_manifest(data / "test.jsonl", silent)
    with pytest.raises(ManifestError, match="no text"):
        BasePlan(tmp_path / "run", ["figure4"], data=data).prepare(None)  # type: ignore[arg-type]
    assert not (tmp_path / "run" / "corpus").exists()


@pytest.mark.parametrize("change", [{"task": "asr"}, {"translation": None}])
def test_a_row_that_is_no_speech_translation_is_named(tmp_path: Path, change: dict[str, str | None]) -> None:
    (tmp_path / "data").mkdir()
    data = manifests(tmp_path)
    rows = list(Manifest(data / "dev.jsonl"))
    write_manifest(data / "dev.jsonl", [*rows[1:], rows[0].model_copy(update=change)])
    with pytest.raises(ManifestError, match=r"dev\.jsonl: 'u0'"):
        BasePlan(tmp_path / "run", ["figure4"], data=data).prepare(None)  # type: ignore[arg-type]


def test_recognition_asks_for_the_transcript_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    data = manifests(tmp_path)
    parts = (TimedText(offset=0.0, duration=0.1, translation="好"),)
    rows = [
        row.model_copy(update={"prompt": "Translate into Chinese.", "segments": parts})
        for row in Manifest(data / "test.jsonl")
    ]
    write_manifest(data / "test.jsonl", rows)
    BasePlan(tmp_path / "run", ["figure4"], data=data).prepare(None)  # type: ignore[arg-type]
    made = Manifest(tmp_path / "run" / "corpus" / "test.asr.jsonl")
    assert {(row.prompt, row.segments) for row in made} == {(None, None)}
    assert all(Utterance.model_validate(row.model_dump()) == row for row in made)


def test_layers_are_chosen_on_dev_clips_as_many_as_there_are(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    plan = BasePlan(tmp_path / "run", ["all"], data=tmp_path / "data")
    settings = plan.select(plan.backbones[0])
    assert settings.data == [str(tmp_path / "run" / "corpus" / "dev.asr.jsonl")]
    assert settings.num_pairs == 200
    manifests(tmp_path)
    assert plan.select(plan.backbones[0]).num_pairs == 6


def test_the_caption_says_how_many_rows_are_scored(tmp_path: Path) -> None:
    plan = BasePlan(tmp_path, ["table2"], data=tmp_path)
    assert "at most the first 400 rows of" in table2(plan.context()).caption
    every = BasePlan(tmp_path, ["table2"], data=tmp_path, changes=["evaluate.limit=null"])
    assert "first" not in table2(every.context()).caption


def test_tables_of_what_is_there_keep_every_seed_and_the_folders_scale(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        (tmp_path / "runs" / "base" / "ai_sta" / f"seed_{seed}").mkdir(parents=True)
    asked = paper_plan("base", tmp_path, ["all"], data=tmp_path / "d", changes=["evaluate.limit=3"]).asked
    (tmp_path / "run.json").write_text(json.dumps(asked))
    again = ["reproduce", "all", "--no-run", "--output", str(tmp_path)]
    assert CliRunner().invoke(app, again).exit_code == 0
    record = json.loads((tmp_path / "reproduce.json").read_text())
    assert (record["scale"], record["seeds"]) == ("base", [1, 2, 3])
    (tmp_path / "run.json").unlink()  # a folder without it, e.g. one that was committed
    plan = plan_there(tmp_path, ["all"])
    assert plan.tests() == [tmp_path / "d" / "test.jsonl"] and plan.context().limit == 3
    assert plan_there(tmp_path, ["all"], seeds=1).scope.seeds == (1,)
    refused = CliRunner().invoke(app, [*again, "--scale", "small"])
    assert "another scale" in str(refused.exception)


@pytest.mark.slow
def test_a_refused_change_leaves_the_record_of_what_was_run(done: tuple[Path, list[str], str]) -> None:
    root, asked, _ = done
    kept = root / "run" / "runs" / "base" / "base" / "seed_1" / "provenance.yaml"
    before = kept.read_bytes()
    words = ["reproduce", "all", "--scale", "base", "--workers", "0", "--output", str(root / "run")]
    changed = [*asked, "joint.train.max_steps=3"]
    words += ["--data", str(root / "data"), *(word for text in changed for word in ("--set", text))]
    assert CliRunner().invoke(app, words).exit_code == 1
    assert kept.read_bytes() == before
    shown = json.loads((root / "run" / "reproduce.json").read_text())["settings"]
    assert "max_steps: 2" in shown["joint base"] and "max_steps: 3" not in shown["joint base"]
    assert recorded(root / "run")["changes"] == asked  # which --no-run goes by


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="begins with the stage") as error:
        BasePlan(tmp_path, ["all"], data=tmp_path, changes=["train.max_steps=3"])
    assert all(stage in str(error.value) for stage in STAGES)
    with pytest.raises(ConfigError, match="unknown key"):
        BasePlan(tmp_path, ["all"], data=tmp_path, changes=["align.train.steps=3"])
    with pytest.raises(ConfigError, match=r"train\.jsonl"):
        BasePlan(tmp_path, ["all"], data=tmp_path).prepare(None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Only base scale"):
        paper_plan("small", tmp_path, ["table2"], changes=["joint.seed=3"])


def test_time_is_reckoned_by_the_steps_that_are_asked_for(tmp_path: Path) -> None:
    asked = ["joint.train.max_steps=200", "joint.train.warmup_steps=20", "evaluate.limit=150"]
    shipped, short = (BasePlan(tmp_path, ["all"], data=tmp_path, changes=c).guesses for c in ([], asked))
    assert short["joint"] * 5 == shipped["joint"] and short["evaluate"] < shipped["evaluate"]
    assert {key for key in short if short[key] != shipped[key]} == {"joint", "evaluate"}


def test_hub_ids_stand_in_the_shipped_file(tmp_path: Path) -> None:
    model = BasePlan(tmp_path, ["all"], data=tmp_path).align(BasePlan(tmp_path, ["all"]).backbones[0]).model
    assert isinstance(BasePlan(tmp_path, ["all"]).jobs()[0].settings, AlignSettings)
    assert (model.speech_encoder, model.backbone) == ("openai/whisper-base", "Qwen/Qwen2.5-0.5B-Instruct")
