"""The report of the zero-shot experiment is computed from what is committed, and refuses what is not."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from aista.evaluation.metrics import bleu
from tools.zero_shot import (
    SYSTEMS,
    Setting,
    collect,
    cpu_seconds,
    curve,
    figure,
    figure_of_curve,
    jobs,
    needed,
    report,
    table,
    table_of_curve,
    together,
)

REFERENCES = {
    "zh": ["医生昨天在公园买了一本书", "他没有看见那只狗"],
    "ja": ["医者は本を買いました", "彼は犬を見ませんでした"],
}


def invent(
    folder: Path, system: str, seed: int, answers: dict[str, list[str]], loss: float | None = None
) -> None:
    """The rows that a run leaves behind."""
    losses = {} if loss is None else {"losses": [loss, loss + 1], "cross_entropy": loss + 0.5}
    rows = [
        {
            "experiment": "e", "system": system, "seed": seed, "language": code, "split": "test",
            "bleu": bleu(answers[code], REFERENCES[code], code).value, "wer": 10.0 * seed, "chrf": 1.0,
            "wrong_language": 0.0, "text_bleu": 99.0, "cascade_bleu": 90.0, "cpu_seconds": 60.0,
            "hypotheses": answers[code], "references": REFERENCES[code], **losses,
        }
        for code in REFERENCES
    ]  # fmt: skip
    home = folder / "runs" / "e" / system / f"seed_{seed}"
    home.mkdir(parents=True)
    (home / "test_rows.json").write_text(json.dumps(rows))


def test_differences_are_recomputed_from_the_committed_answers(tmp_path: Path) -> None:
    half = {code: [texts[0], texts[0]] for code, texts in REFERENCES.items()}
    for seed in (1, 2):
        invent(tmp_path, "base", seed, half)
        invent(tmp_path, "cosine", seed, REFERENCES)
    invent(tmp_path, "cosine", 3, half)  # without its base: not compared
    collect(tmp_path, tmp_path / "kept", "test")
    base, cosine = report(tmp_path / "kept")
    wanted = sum(100 - bleu(half[code], REFERENCES[code], code).value for code in half) / 2
    assert (base["system"], cosine["seeds"], cosine["bleu"]) == ("base", [1, 2], pytest.approx(100.0))
    assert cosine["difference"]["bleu"]["mean"] == pytest.approx(wanted)
    assert cosine["over_seeds_and_sentences"]["difference"] == pytest.approx(wanted)
    drawn = figure([base, cosine], {})
    assert "BLEU from speech (better →)" in drawn and "word error rate (← better)" in drawn
    lines = (tmp_path / "kept" / "runs.jsonl").read_text()
    (tmp_path / "kept" / "runs.jsonl").write_text(lines.replace("100.0", "99.0", 1))
    with pytest.raises(AssertionError):
        report(tmp_path / "kept")


def test_sentences_of_several_folders_are_scored_as_one_corpus(tmp_path: Path) -> None:
    half = {code: [texts[0], texts[0]] for code, texts in REFERENCES.items()}
    for home, turned in (("one", 1), ("two", -1)):
        invent(tmp_path / home, "base", 1, half, loss=1.0)
        right = {code: texts[::turned] for code, texts in REFERENCES.items()}
        invent(tmp_path / home, "cosine", 1, right, loss=2.0 + turned)
        collect(tmp_path / home, tmp_path / f"kept_{home}", "test")
    invent(tmp_path / "one", "cosine", 2, REFERENCES, loss=1.0)  # in one folder alone: left out
    collect(tmp_path / "one", tmp_path / "kept_one", "test")
    base, cosine = report(tmp_path / "kept_one", tmp_path / "kept_two")
    asked = {code: texts * 2 for code, texts in REFERENCES.items()}
    given = {code: [*texts, *texts[::-1]] for code, texts in REFERENCES.items()}
    wanted = [sum(bleu(told[code], asked[code], code).value for code in asked) / 2 for told in
              ({code: texts * 2 for code, texts in half.items()}, given)]  # fmt: skip
    assert (base["bleu"], cosine["bleu"]) == (pytest.approx(wanted[0]), pytest.approx(wanted[1]))
    assert cosine["seeds"] == [1] and cosine["wer"] is None
    assert cosine["difference"]["bleu"]["mean"] == pytest.approx(wanted[1] - wanted[0])
    assert cosine["difference"]["cross_entropy"]["mean"] == pytest.approx(1.0)
    assert cosine["experiment"] == "test+test/e" and "| 1 |" in table([base, cosine])


def test_what_was_collected_before_stays(tmp_path: Path) -> None:
    half = {code: [texts[0], texts[0]] for code, texts in REFERENCES.items()}
    for system in ("base", "cosine"):
        invent(tmp_path / "old", system, 1, half, loss=1.0)
    for seed in (1, 2):
        invent(tmp_path / "new", "base", seed, REFERENCES, loss=float(seed))
    collect(tmp_path / "old", tmp_path / "kept", "test")
    collect(tmp_path / "new", tmp_path / "kept", "test")
    base, cosine = report(tmp_path / "kept")
    assert base["seeds"] == [1, 2] and base["bleu"] == pytest.approx(100.0)
    assert cosine["seeds"] == [1] and cosine["difference"]["bleu"]["mean"] < -10
    before = (tmp_path / "kept" / "answers.json.gz").read_bytes()
    path = tmp_path / "new" / "runs" / "e" / "base" / "seed_2" / "test_rows.json"
    rows = [{**row, "references": row["references"][::-1]} for row in json.loads(path.read_text())]
    path.write_text(json.dumps(rows))
    with pytest.raises(SystemExit, match="other sentences"):
        collect(tmp_path / "new", tmp_path / "kept", "test")
    assert (tmp_path / "kept" / "answers.json.gz").read_bytes() == before
    for seed in (1, 2):  # losses alone keep no references, but say whose they are
        path = tmp_path / "new" / "runs" / "e" / "base" / f"seed_{seed}" / "test_rows.json"
        silent = {"bleu": None, "hypotheses": [], "references": [], "sentences": f"of seed {seed}"}
        path.write_text(json.dumps([{**row, **silent} for row in json.loads(path.read_text())]))
    with pytest.raises(SystemExit, match="other sentences"):
        collect(tmp_path / "new", tmp_path / "silent", "test")


def test_what_another_language_costs_is_told_apart(tmp_path: Path, monkeypatch) -> None:
    """Base differs in one answer alone, which is English: where both obey there is no difference."""
    library = SimpleNamespace(  # the project does not depend on it
        set_languages=lambda codes: None,
        classify=lambda text: ("en" if text.isascii() else "ja" if "た" in text else "zh", 1.0),
    )
    monkeypatch.setattr("tools.zero_shot.find_spec", lambda name: name)
    monkeypatch.setattr("tools.zero_shot.import_module", lambda name: library)
    english = {**REFERENCES, "ja": [REFERENCES["ja"][0], "He did not see the dog"]}
    for seed in (1, 2):
        invent(tmp_path, "base", seed, english)
        invent(tmp_path, "cosine", seed, REFERENCES)
    collect(tmp_path, tmp_path / "kept", "test")
    base, cosine = report(tmp_path / "kept")
    assert (base["identified_wrong"], cosine["identified_wrong"]) == (0.25, 0.0)
    assert cosine["difference"]["bleu"]["mean"] > 5
    assert cosine["in_the_language_asked"]["values"] == pytest.approx((0.0, 0.0))


def test_experiments_are_taken_together_by_their_seeds(tmp_path: Path) -> None:
    half = {code: [texts[0], texts[0]] for code, texts in REFERENCES.items()}
    for home, seeds, gained in (("one", (1, 2), 1.0), ("two", (3, 4, 5), 0.5)):
        for seed in seeds:
            invent(tmp_path / home, "base", seed, half, loss=2.0)
            invent(tmp_path / home, "cosine_half", seed, half if seed == 5 else REFERENCES, loss=2.0 - gained)
        collect(tmp_path / home, tmp_path / f"kept_{home}", "test")
    found = [row for home in ("one", "two") for row in report(tmp_path / f"kept_{home}")]
    (both,) = together(found)
    assert (both["system"], both["seeds"], both["answered"]) == ("cosine_half", [1, 2, 3, 4, 5], 5)
    losses = both["difference"]["cross_entropy"]
    assert losses["values"] == pytest.approx((-1.0, -1.0, -0.5, -0.5, -0.5))
    assert both["losses_over_seeds_and_sentences"] == pytest.approx(
        {"difference": -0.7, "low": -0.7, "high": -0.7}  # within an experiment all seeds are alike
    )
    wanted = sum(100 - bleu(half[code], REFERENCES[code], code).value for code in half) / 2
    assert both["difference"]["bleu"]["values"] == pytest.approx([*[wanted] * 4, 0.0])
    assert both["over_seeds_and_sentences"]["difference"] == pytest.approx(0.8 * wanted)
    assert "−0.700" in table([both])


def test_interrupted_attempts_count_and_finished_ones_cost_nothing_more(tmp_path: Path) -> None:
    def work() -> float:
        with cpu_seconds(tmp_path) as spent:
            sum(i * i for i in range(3_000_000))
        return spent()

    with pytest.raises(KeyboardInterrupt), cpu_seconds(tmp_path):
        sum(i * i for i in range(3_000_000))
        raise KeyboardInterrupt
    first = float((tmp_path / "cpu_seconds").read_text())
    whole = work()
    (tmp_path / "training.json").write_text("{}")
    assert whole > first > 0 and work() == whole


def test_losses_are_compared_sentence_by_sentence(tmp_path: Path) -> None:
    for seed, gained in ((1, 0.25), (2, 0.75)):
        invent(tmp_path, "base", seed, REFERENCES, loss=2.0 + seed)
        invent(tmp_path, "cosine_half", seed, REFERENCES, loss=2.0 + seed - gained)
    invent(tmp_path, "text", 0, REFERENCES, loss=1.0)
    path = tmp_path / "runs" / "e" / "base" / "seed_2" / "test_rows.json"
    silent = [
        {**row, "bleu": None, "hypotheses": [], "references": []} for row in json.loads(path.read_text())
    ]
    path.write_text(json.dumps(silent))  # its losses count, its answers were never asked for
    collect(tmp_path, tmp_path / "kept", "test")
    found = {row["system"]: row for row in report(tmp_path / "kept")}
    gain = found["cosine_half"]["difference"]["cross_entropy"]
    drawn = found["cosine_half"]["losses_over_seeds_and_sentences"]
    assert gain["values"] == pytest.approx((-0.25, -0.75)) and gain["mean"] == pytest.approx(-0.5)
    assert (drawn["low"], drawn["difference"], drawn["high"]) == pytest.approx((-0.75, -0.5, -0.25))
    assert len(found["cosine_half"]["difference"]["bleu"]["values"]) == 1 == found["base"]["answered"]
    assert found["text"]["seeds"] == [0] and "difference" not in found["text"]
    assert "−0.500" in table(list(found.values()))
    for path in tmp_path.glob("runs/*/*/*/test_rows.json"):  # losses alone
        silent = [
            {**row, "bleu": None, "hypotheses": [], "references": []} for row in json.loads(path.read_text())
        ]
        path.write_text(json.dumps(silent))
    collect(tmp_path, tmp_path / "losses", "test")
    found = {row["system"]: row for row in report(tmp_path / "losses", to="cosine_half")}
    assert found["base"]["difference"]["cross_entropy"]["values"] == pytest.approx((0.25, 0.75))
    found = {row["system"]: row for row in report(tmp_path / "losses")}
    assert found["cosine_half"]["losses_over_seeds_and_sentences"]["difference"] == pytest.approx(-0.5)
    assert "−0.500" in table(list(found.values()))
    assert "BLEU" not in table(list(found.values()))
    drawn = figure(list(found.values()), {"test/e": "an experiment"})
    assert all(text in drawn for text in ("an experiment", "cross-entropy saved", "+50.0"))  # not spent


def test_systems_share_data_and_length(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    (tmp_path / "corpus").mkdir()
    for name in ("asr_1200", "asr_1200_shuffled"):
        (tmp_path / "corpus" / f"{name}.jsonl").touch()
    trained = {}
    for name in SYSTEMS:
        steps = jobs(setting, name, 7, "dev")
        job = next(steps)
        assert (job.verb == "align") == SYSTEMS[name].first
        trained[name] = (next(steps) if job.verb == "align" else job).settings
    base = trained.pop("base")
    for name, settings in trained.items():
        assert (settings.seed, settings.train) == (7, base.train)
        assert settings.data.train == base.data.train or name == "shuffled"
        assert (settings.model == base.model) != SYSTEMS[name].first
    assert len({settings.output for settings in trained.values()}) == len(trained)


def test_pairs_needed_lie_on_the_line_over_their_logarithm() -> None:
    """By hand: half way in log(1 + n) between 0 and 99 pairs lie 9; nothing comes below the least value."""
    counts = [0, 99, 9_999]
    other = np.array([4.0, 2.0, 1.0])
    assert needed(counts, other, np.array([3.0, 1.5, 0.5])) == pytest.approx([9.0, 999.0, np.inf])
    assert needed(counts, other, other) == pytest.approx(counts)
    assert needed(counts, other, np.array([5.0, 4.0, 2.0])) == pytest.approx([0.0, 0.0, 99.0])


@pytest.mark.parametrize("along", ["num_pairs", "steps"])
def test_a_curve_is_made_of_several_folders(tmp_path: Path, along: str) -> None:
    """By hand: the system saves 1 nat at first, and nothing later, 1 more than at first."""
    for count, (base, cosine) in {0: (4.0, 3.0), 99: (2.0, 2.0)}.items():
        rows = [
            {
                "experiment": f"with{count}", "system": system, "seed": seed, "num_pairs": 5, "steps": 5,
                "language": code, "cross_entropy": value + of_code, "sentences": code, along: count,
            }
            for system, value in (("base", base), ("cosine", cosine), ("aligned", 9.0))
            for seed in (1, 2)
            for code, of_code in (("zh", 0.5), ("ja", -0.5))
        ]  # fmt: skip
        losses = {
            "/".join(str(row[key]) for key in ("experiment", "system", "seed", "language")): [
                row["cross_entropy"] - 1,
                row["cross_entropy"] + 1,
            ]
            for row in rows
        }
        (tmp_path / str(count)).mkdir()
        (tmp_path / str(count) / "runs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        packed = gzip.compress(json.dumps({"losses": losses}).encode())
        (tmp_path / str(count) / "answers.json.gz").write_bytes(packed)
    targets = [tmp_path / "0", tmp_path / "99"]
    none, many = curve(targets, "cosine", along)
    assert (none[along], none["seeds"], none["base"], none["cosine"]) == (0, [1, 2], [4.0, 4.0], [3.0, 3.0])
    assert none["needed"] == pytest.approx([9.0, 9.0]) and many["needed_by_the_mean"] == pytest.approx(99.0)
    assert [many["change"][key] for key in ("difference", "low", "high")] == pytest.approx([1.0, 1.0, 1.0])
    first, last = table_of_curve([none, many], "cosine", along).replace("\u2212", "-").split("\n")[2:]
    assert first.startswith("| 0 | 4.000 | 3.000 | -1.000") and first.endswith("|  |  |")
    assert last.endswith("| +1.000 (+1.000 to +1.000) | +1.000 (+1.000 to +1.000) |")
    assert ">99<" in figure_of_curve([none, many], "cosine", along)
    (tmp_path / "99" / "answers.json.gz").write_bytes(gzip.compress(b'{"losses": {}}'))
    assert "change" not in curve(targets, "cosine", along)[1]
    (tmp_path / "99" / "runs.jsonl").write_text(
        json.dumps({"language": "zh", "sentences": "others", "system": "base"})
    )
    with pytest.raises(SystemExit, match="one curve"):
        curve(targets, "cosine", along)
