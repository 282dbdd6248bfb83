"""COMET is called as its own documentation says, through a stand-in: the package and its models are large."""

from __future__ import annotations

import json
import sys

import pytest
from typer.testing import CliRunner

from aista.audio.files import write_audio
from aista.cli import evaluate as verb
from aista.data.manifest import Utterance, write_manifest
from aista.errors import EvaluationError
from aista.evaluation.evaluate import ScoreSettings, score
from aista.evaluation.long_form import Talk, long_form
from aista.evaluation.metrics import Comet
from aista.evaluation.results import add_comet
from tests.evaluation.standins import tone
from tests.evaluation.test_score import Counter

# The share of the reference's letters that stand in the hypothesis; a source is asked for, and is not empty.
STAND_IN = """
from types import SimpleNamespace

class Model:
    def predict(self, samples, batch_size=16, gpus=1):
        assert all(row["src"] for row in samples) and gpus == 0
        scores = [len(set(row["mt"]) & set(row["ref"])) / len(set(row["ref"])) for row in samples]
        return SimpleNamespace(scores=scores, system_score=sum(scores) / len(scores))

def load_from_checkpoint(path, *, local_files_only):
    assert local_files_only and open(path).read() == "weights"
    return Model()
"""


@pytest.fixture
def model(monkeypatch, tmp_path):
    """A stand-in for the package unbabel-comet, and the folder of a model of it."""
    package, weights = tmp_path / "site", tmp_path / "wmt22" / "checkpoints" / "model.ckpt"
    (package / "unbabel_comet-2.2.7.dist-info").mkdir(parents=True)
    (package / "unbabel_comet-2.2.7.dist-info" / "METADATA").write_text(
        "Name: unbabel-comet\nVersion: 2.2.7\n"
    )
    (package / "comet.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(package)
    monkeypatch.delitem(sys.modules, "comet", raising=False)
    weights.parent.mkdir(parents=True)
    weights.write_text("weights")
    return weights.parents[1]


def test_a_score_is_the_mean_of_the_segments_that_have_a_reference(model):
    score = Comet(str(model)).score(["ab", "x", "a"], ["abcd", " ", "a"], ["one", None, "two"])
    assert (score.value, score.num_segments) == (75.0, 2)
    assert score.signature == f"model:{model}|unit:percent|version:2.2.7"
    assert Comet(str(model / "checkpoints" / "model.ckpt")).score(["a"], ["ab"], ["one"]).value == 50.0
    with pytest.raises(EvaluationError, match="1 of 2 rows without a transcript"):
        Comet(str(model)).score(["a", "b"], ["a", "b"], ["one", None])


def test_what_is_not_there_is_told_and_nothing_is_fetched(model, monkeypatch, tmp_path):
    with pytest.raises(EvaluationError, match="at hand as Unbabel/wmt22-comet-da"):
        Comet("Unbabel/wmt22-comet-da")
    with pytest.raises(EvaluationError, match=r"expected: .*model\.ckpt"):
        Comet(str(tmp_path))
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place.rsplit("/")[-1] != "site"])
    with pytest.raises(EvaluationError, match="pip install unbabel-comet"):
        Comet(str(model))


def test_an_evaluation_has_it_for_each_set_and_over_all(model, tmp_path):
    for name, count in (("one", 1), ("two", 3)):
        rows = []
        for number in range(count):
            write_audio(tmp_path / f"{name}{number}.wav", tone(0.2 + 0.1 * number))
            common = {"audio": f"{name}{number}.wav", "text": "It is good.", "tgt_lang": "zh"}
            rows.append(
                Utterance(id=f"{number}", task="st", translation="好" if count == 1 else "好的", **common)
            )
        write_manifest(tmp_path / f"{name}.jsonl", rows)
    data = [str(tmp_path / f"{name}.jsonl") for name in ("one", "two")]
    found = score(Counter(), ScoreSettings.of({"output": str(tmp_path / "out"), "data": data}))
    with_comet = add_comet(tmp_path / "out", Comet(str(model)))
    by_set = {name: part["scores"]["comet_zh"] for name, part in with_comet["by_set"].items()}
    assert by_set == {"one": 100.0, "two": 50.0}
    assert with_comet["scores"] == {**found["scores"], "comet_zh": pytest.approx((100.0 + 3 * 50.0) / 4)}
    assert with_comet["num_scored"]["comet_zh"] == 4 and "comet_zh" in with_comet["signatures"]
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == with_comet


def test_whole_recordings_have_it_too(model, tmp_path):
    pytest.importorskip("mweralign", reason="needs pip install '.[long-form]'")
    write_audio(tmp_path / "talk.wav", tone(1.0))
    talk = Talk(str(tmp_path / "talk.wav"), "en", "zh", ((0.0, 1.0, "好"),), ("Good.",))
    assert long_form(Counter(), [talk], tmp_path, Comet(str(model)))["scores"]["comet_zh"] == 100.0


def test_the_command_line_refuses_it_before_anything_is_decoded(tmp_path):
    given = ["--comet", str(tmp_path), "--data", "missing.jsonl", "--output", str(tmp_path / "out")]
    refused = CliRunner().invoke(verb.app, given).exception
    assert isinstance(refused, EvaluationError) and "COMET" in str(refused)
