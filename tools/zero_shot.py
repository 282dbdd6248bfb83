"""Translation of speech that was never taught: the experiment of docs/decisions/zero-shot-small.md.

    python tools/zero_shot.py run --systems base cosine --seeds 1 2 --split dev
    python tools/zero_shot.py collect docs/results/small/zero_shot
    python tools/zero_shot.py report docs/results/small/zero_shot

Speech comes with its transcript alone; translation is taught on other sentences, as text. A run that stopped
goes on; what is finished is read.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from aista.analysis.comparison import gain
from aista.config import AlignSettings, PretrainSettings
from aista.data.manifest import Manifest, Utterance, write_manifest
from aista.demo import corpus
from aista.evaluation.decode import read_hypotheses
from aista.evaluation.evaluate import EvaluateSettings
from aista.evaluation.metrics import bleu, chrf
from aista.evaluation.significance import Paired, bootstrap_over_seeds, paired_hypotheses, paired_losses
from aista.experiments.demo import encode, synthesise, write_texts
from aista.experiments.plan import Job, changed, shipped
from aista.experiments.runner import Clock, Outcome
from aista.figures import charts, signed
from aista.files import write_whole
from aista.text.prompts import script_complaint

SCALE = corpus.Scale(asr=1_200, st=200, dev=150, test_common=200, test_rare=200)
SPLITS = {"dev": ("dev",), "test": ("test_common", "test_rare")}
TARGETS = ("zh", "ja")
COLUMNS = (
    "bleu", "chrf", "wrong_language", "wer", "text_bleu", "cascade_bleu", "cross_entropy", "cpu_seconds",
)  # fmt: skip
ALL, INNER = [0, 1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]


@dataclass(frozen=True)
class System:
    """How a run is trained.

    Attributes:
        title: What a reader sees.
        method, layers, alpha, options: Its alignment, as in the settings.
        first: Alignment first: the run starts from what ``aista align`` made of the same seed.
        shuffled: A control: the transcripts that are aligned with belong to other clips.
    """

    title: str
    method: str = "none"
    layers: Sequence[int] = (0,)
    alpha: float = 0.9
    options: Mapping[str, Any] | None = None
    first: bool = False
    shuffled: bool = False

    def alignment(self) -> dict[str, Any]:
        """Return the settings of the alignment."""
        return {
            "method": self.method, "layers": list(self.layers), "alpha": self.alpha,
            "options": dict(self.options or {}),
        }  # fmt: skip


COSINE = {"scale": "cosine"}
SYSTEMS = {
    "base": System("base: recognition and text translation"),
    "cosine": System("+ Wasserstein, cosine cost", "wasserstein", ALL, 0.9, COSINE),
    "cosine_inner": System("+ Wasserstein, cosine cost, layers 1-6", "wasserstein", INNER, 0.9, COSINE),
    "cosine_0": System("+ Wasserstein, cosine cost, layer 0", "wasserstein", [0], 0.9, COSINE),
    "letter": System("+ Wasserstein, squared Euclidean (the paper's letter)", "wasserstein", ALL, 0.99),
    "retrieval": System("+ retrieval objective", "retrieval", ALL, 0.9),
    "retrieval_half": System("+ retrieval objective, alpha .5", "retrieval", ALL, 0.5),
    "cosine_half": System("+ Wasserstein, cosine cost, alpha .5", "wasserstein", ALL, 0.5, COSINE),
    "first": System("alignment first", first=True),
    "first_cosine": System(
        "alignment first, + Wasserstein, cosine cost", "wasserstein", ALL, 0.5, COSINE, True
    ),
    "first_retrieval": System("alignment first, + retrieval objective", "retrieval", ALL, 0.5, first=True),
    "distillation": System("+ distillation of the reading branch", "distillation", (), 0.5),
    "shuffled": System("control: + Wasserstein to others' transcripts", "wasserstein", ALL, 0.5, COSINE,
                       shuffled=True),
    "uniform": System("control: + cosine cost under a uniform plan", "tools.uniform_plan", ALL, 0.5),
}  # fmt: skip


# What tools/zero_shot_base.py runs on real weights, under names of its own.
START = {"start": "the common start: alignment first, then recognition"}
BOUNDS = {"text": "bound: the true transcript", "cascade": "bound: cascade with Whisper's transcript"}
TITLES = {name: system.title for name, system in SYSTEMS.items()} | BOUNDS | START | {
    "aligned": "alignment first alone: no cross-entropy on speech",
    "pulled": "alignment first, then Wasserstein (cosine) without cross-entropy",
    "unaligned": "cross-entropy without alignment first",
    "maxsim": "+ retrieval objective by MaxSim",
    "mean": "+ retrieval objective by the cosine of means",
    "both": "+ Wasserstein, cosine cost, with the cosine of means",
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What all systems of an experiment share; chosen on dev."""

    folder: Path
    steps: int = 400
    batch: int = 32
    learning_rate: float = 1e-3
    align_steps: int = 150
    clips: int = 1_200
    pairs: int = 0  # of speech translation, into each language
    start: str = ""  # a model that hears already, such as aista:stage1; empty: new adapters

    @property
    def name(self) -> str:
        """A folder's name that holds the choices."""
        return (
            f"steps{self.steps}-batch{self.batch}-lr{self.learning_rate:g}-align{self.align_steps}"
            f"-clips{self.clips}-pairs{self.pairs}{self.start.replace('aista:', '-')}"
        )


# ---- data ----


def prepare(folder: Path) -> None:
    """Make the corpora, let the encoders listen once, and write the manifests that the demo lacks."""
    names = ("asr", "st", "dev", "test_common", "test_rare")
    clock = Clock(folder / "seconds.json")
    synthesise(folder, SCALE, names, clock)
    encode(folder, ["aista:stage1"], names, clock)
    write_texts(folder, names)


def clips(setting: Setting, shuffled: bool = False) -> Path:
    """Write the clips of recognition: the first so many; shuffled: beside transcripts of other clips.

    The shuffled rows are asked and answered as the others are, in the form of translation into English.
    """
    home = setting.folder / "corpus"
    path = home / f"asr_{setting.clips}{'_shuffled' if shuffled else ''}.jsonl"
    if not path.exists():
        rows = list(Manifest(home / "asr.jsonl"))[: setting.clips]
        if shuffled:
            rows = with_others_transcripts(rows)
        write_manifest(path, rows)
    return path


def with_others_transcripts(rows: list[Utterance]) -> list[Utterance]:
    """Return clips of recognition, asked and answered as before, beside transcripts of other clips."""
    others = rows[len(rows) // 2 :] + rows[: len(rows) // 2]
    asked = {"task": "st", "prompt": "Transcribe the speech into English text."}
    return [
        row.model_copy(update={**asked, "translation": row.text, "text": other.text})
        for row, other in zip(rows, others, strict=True)
    ]


def examples(setting: Setting) -> Path:
    """Write the pairs of speech translation: so many clips, each into both languages."""
    path = setting.folder / "corpus" / f"st_{setting.pairs}.jsonl"
    if not path.exists():
        write_manifest(path, list(Manifest(setting.folder / "corpus" / "st.jsonl"))[: 2 * setting.pairs])
    return path


# ---- runs ----


def jobs(setting: Setting, name: str, seed: int, split: str, bounds: bool = True) -> Iterator[Job]:
    """Yield what a run consists of: alignment first where it has it, training, evaluation, the cascade."""
    system, home = SYSTEMS[name], setting.folder / "runs" / setting.name
    run, features = home / name / f"seed_{seed}", str(setting.folder / "features")
    fresh = shipped(PretrainSettings, "pretrain", setting.folder)
    length = {"warmup_steps": setting.steps // 10, "save_steps": setting.steps, "eval_steps": None}
    start: dict[str, Any] = {"init": setting.start, "model": None} if setting.start else {}
    if system.first:
        aligned = _aligned(setting, fresh, seed)
        yield Job(f"align seed_{seed}", "align", aligned)
        start = {"init": aligned.output, "model": None}
    manifests = [str(clips(setting, system.shuffled)), str(setting.folder / "corpus" / "mt.jsonl")]
    weights = [1.0, 1.0]
    if setting.pairs:
        manifests, weights = [*manifests, str(examples(setting))], [1.0, 1.0, 1.0]
    training = changed(
        fresh, output=str(run), seed=seed, prompt_pool=False, alignment=system.alignment(), **start,
        data={"train": manifests, "validation": [], "weights": weights, "features": features},
        train={**length, "max_steps": setting.steps, "per_device_train_batch_size": setting.batch,
               "learning_rate": setting.learning_rate},
    )  # fmt: skip
    yield Job(f"pretrain {name}/seed_{seed}", "pretrain", training)
    sets = [f"{part}{kind}" for part in SPLITS[split] for kind in ("", "_asr")]
    evaluation = changed(
        shipped(EvaluateSettings, "evaluate", setting.folder),
        model=str(run), output=str(run / split), layers=[0], silence_check=False, features=features,
        data=[str(setting.folder / "corpus" / f"{each}.jsonl") for each in sets],
        measures=["speech", "text_translation"] if bounds else ["speech"],
        generation={"num_beams": 1, "batch_size": 64, "max_new_tokens": 48},
    )  # fmt: skip
    yield Job(f"evaluate {name}/seed_{seed}", "evaluate", evaluation)
    if not bounds:
        return
    cascade = _own_transcripts(setting, run, split)
    evaluation = changed(evaluation, output=str(run / f"{split}_cascade"), data=[str(cascade)],
                         measures=["text_translation"])  # fmt: skip
    yield Job(f"cascade {name}/seed_{seed}", "evaluate", evaluation)


def _aligned(setting: Setting, fresh: PretrainSettings, seed: int) -> AlignSettings:
    """Return the settings of alignment first: one a seed, whatever starts from it."""
    home = setting.folder / "runs" / setting.name / "aligned" / f"seed_{seed}"
    start = {"init": setting.start} if setting.start else {"model": fresh.model}
    data = {"train": [str(clips(setting))], "features": str(setting.folder / "features")}
    train = {"max_steps": setting.align_steps, "eval_steps": None, "save_steps": setting.align_steps}
    values = {"output": str(home), **start, "data": data, "train": train, "seed": seed}
    return AlignSettings.of(values)


def _own_transcripts(setting: Setting, run: Path, split: str) -> Path:
    """Write what the run heard as texts to translate: the cascade of the model with itself."""
    heard = {row.id: row.hypothesis for row in _answers(run / split, "speech", "asr")}
    rows = [
        Utterance(id=row.id, task="mt", tgt_lang=row.tgt_lang, translation=row.translation,
                  text=heard[row.id.rpartition("-")[0]] or "-")
        for part in SPLITS[split]
        for row in Manifest(setting.folder / "corpus" / f"{part}.jsonl")
    ]  # fmt: skip
    path = run / f"{split}_own_transcripts.jsonl"
    write_manifest(path, rows)
    return path


def _answers(folder: Path, kind: str, task: str, language: str = "en") -> list[Any]:
    """Return the answers of an evaluation to one task, of all its sets, by id."""
    found = [row for file in sorted(folder.glob(f"*.{kind}.jsonl")) for row in read_hypotheses(file)]
    return sorted((r for r in found if (r.task, r.language) == (task, language)), key=lambda r: r.id)


@contextmanager
def cpu_seconds(folder: Path) -> Iterator[Callable[[], float]]:
    """Count the CPU seconds of what fills a folder, those of interrupted attempts too.

    The value returns the seconds in all. A folder that was finished before costs nothing more.
    """
    path, start = folder / "cpu_seconds", time.process_time()
    finished = any((folder / name).exists() for name in ("training.json", "results.json"))
    try:
        yield lambda: float(path.read_text())
    finally:
        if not (finished and path.exists()):
            before = float(path.read_text()) if path.exists() else 0.0
            write_whole(path, f"{before + time.process_time() - start:.1f}")


def go(setting: Setting, name: str, seed: int, split: str, bounds: bool) -> None:
    """Run a system under a seed, and write its rows and answers when it ends."""
    run = setting.folder / "runs" / setting.name / name / f"seed_{seed}"
    path = run / f"{split}_rows.json"
    kept = json.loads(path.read_text()) if path.exists() else []
    if kept and (not bounds or kept[0]["text_bleu"] is not None):
        return
    trained = 0.0
    for job in jobs(setting, name, seed, split, bounds):
        with cpu_seconds(Path(job.settings.output)) as spent:
            if job.here() is not Outcome.FINISHED:
                raise SystemExit(f"{job.name} did not finish")
        if job.verb != "evaluate":
            trained += spent()  # what several systems start from counts for each of them
    scores = json.loads((run / split / "results.json").read_text())
    cascade: dict[str, float] = {}
    if bounds:
        cascade = json.loads((run / f"{split}_cascade" / "results.json").read_text())["scores"]
    rows = []
    for code in TARGETS:
        answers = _answers(run / split, "speech", "st", code)
        wrong = sum(script_complaint(row.hypothesis, code) is not None for row in answers)
        rows.append(
            {
                "experiment": setting.name, "system": name, "seed": seed, "steps": setting.steps,
                "cpu_seconds": kept[0]["cpu_seconds"] if kept else round(trained, 1),
                "num_pairs": setting.pairs, "language": code,
                "bleu": scores["scores"][f"bleu_{code}"], "chrf": scores["scores"][f"chrf_{code}"],
                "wrong_language": wrong / len(answers), "wer": scores["scores"]["wer_en"],
                "text_bleu": scores["scores"].get(f"mt_bleu_{code}"),
                "cascade_bleu": cascade.get(f"mt_bleu_{code}"),
                "num_sentences": len(answers), "signature": scores["signatures"][f"bleu_{code}"],
                "split": split, "hypotheses": [row.hypothesis for row in answers],
                "references": [row.reference for row in answers],
            }
        )  # fmt: skip
    write_whole(path, json.dumps(rows, ensure_ascii=False))
    print(*(f"{name} {seed} {r['language']} {r['bleu']:.2f} text {r['text_bleu']} cascade "
            f"{r['cascade_bleu']} WER {r['wer']:.1f} wrong {r['wrong_language']:.2f} "
            f"{r['cpu_seconds']:.0f} s" for r in rows), sep="\n", flush=True)  # fmt: skip


# ---- what came out ----


def collect(folder: Path, target: Path, split: str, take: Mapping[str, str] | None = None) -> None:
    """Gather the rows of all runs that are finished, and their answers, where they are committed.

    Rows that stand there already stay, but for those that were run again.

    Args:
        take: Of these alone, EXPERIMENT/SYSTEM, under other names of the same form: systems of different
            experiments become comparable.
    """
    found = [
        r
        for path in sorted(folder.glob(f"runs/*/*/*/{split}_rows.json"))
        for r in json.loads(path.read_text())
    ]
    if take:
        found = [row for row in found if f"{row['experiment']}/{row['system']}" in take]
        for row in found:
            named = take[f"{row['experiment']}/{row['system']}"]
            row["experiment"], row["system"] = named.split("/")
    texts = {_key(r): r.pop("hypotheses") for r in found if r["bleu"] is not None}
    losses = {_key(r): r.pop("losses") for r in found if "losses" in r}
    references = {r["language"]: r["references"] for r in found if r["bleu"] is not None}
    found = [{k: v for k, v in r.items() if k not in ("hypotheses", "references")} for r in found]
    kept: dict[str, Any] = {"references": {}, "hypotheses": {}, "losses": {}}
    again = {_key(row) for row in found}
    if (target / "runs.jsonl").exists():
        kept |= json.loads(gzip.decompress((target / "answers.json.gz").read_bytes()))
        found = [row for row in _collected(target) if _key(row) not in again] + found
    if _are_of_several_sets(found) or any(
        kept["references"].get(code, texts) != texts for code, texts in references.items()
    ):
        raise SystemExit(f"{target} holds answers to other sentences: collect into another folder")
    for part, new in (("references", references), ("hypotheses", texts), ("losses", losses)):
        kept[part] = {key: values for key, values in kept[part].items() if key not in again} | new
    target.mkdir(parents=True, exist_ok=True)
    write_whole(target / "runs.jsonl", "".join(json.dumps(row) + "\n" for row in found))
    packed = json.dumps({k: v for k, v in kept.items() if v or k != "losses"}, ensure_ascii=False).encode()
    (target / "answers.json.gz").write_bytes(gzip.compress(packed, mtime=0))


def _collected(target: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (target / "runs.jsonl").read_text().split("\n") if line]


def _are_of_several_sets(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether rows were scored on different test sentences of one language; old rows do not say on which."""
    sets = {(row["language"], row["sentences"]) for row in rows if "sentences" in row}
    return len(sets) > len(dict(sets))


def _key(row: Mapping[str, Any]) -> str:
    return "/".join(str(row[name]) for name in ("experiment", "system", "seed", "language"))


def _joined(targets: Sequence[Path]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the rows and answers of folders that hold the same runs on different sentences, as on all.

    Only runs that stand in every folder are taken. Of the word error rate nothing is said: rows do not hold
    how many words were asked.
    """
    rows = [{_key(row): row for row in _collected(target)} for target in targets]
    saved = [json.loads(gzip.decompress((target / "answers.json.gz").read_bytes())) for target in targets]
    if len(targets) == 1:
        return list(rows[0].values()), saved[0]
    found = list[dict[str, Any]]()
    kept: dict[str, Any] = {"references": {}, "hypotheses": {}, "losses": {}}
    for key in rows[0]:
        parts = [row[key] for row in rows if key in row and row[key]["bleu"] is not None]
        if len(parts) < len(targets):
            continue
        code = parts[0]["language"]
        names = {"references": code, "hypotheses": key, "losses": key}
        for what, name in names.items():
            kept[what][name] = [each for one in saved for each in one[what][name]]
        texts = kept["hypotheses"][key], kept["references"][code]
        counts = [len(one["references"][code]) for one in saved]
        wrong = [row["wrong_language"] for row in parts]
        found.append(
            {
                **parts[0], "split": "+".join(row["split"] for row in parts), "num_sentences": sum(counts),
                "bleu": bleu(*texts, code).value, "chrf": chrf(*texts).value, "wer": None,
                "wrong_language": float(np.average(wrong, weights=counts)),
                "cross_entropy": fmean(kept["losses"][key]),
            }
        )  # fmt: skip
    return found, kept


def report(*targets: Path, to: str = "base") -> list[dict[str, Any]]:
    """Recompute mean scores, and every difference to a system with its intervals, from what is committed.

    Args:
        targets: A folder of results; several are joined, see :func:`_joined`.
        to: The system that others are compared with.
    """
    rows, kept = _joined(targets)
    kept["wrong"] = _in_another_language(kept["hypotheses"])
    found = []
    for experiment in sorted({row["experiment"] for row in rows}):
        here = [row for row in rows if row["experiment"] == experiment]
        for name in sorted({row["system"] for row in here}, key=list(TITLES).index):
            own, base = ({r["seed"] for r in here if r["system"] == which} for which in (name, to))
            seeds = sorted(own if name in (to, *START, *BOUNDS) else own & base)
            if not seeds:
                continue
            mine = [row for row in here if row["system"] == name and row["seed"] in seeds]
            entry: dict[str, Any] = {
                "experiment": f"{here[0]['split']}/{experiment}",
                "system": name,
                "seeds": seeds,
            }
            for key in COLUMNS:
                known = [row[key] for row in mine if row.get(key) is not None]
                entry[key] = fmean(known) if known else None
            wrong = [kept["wrong"][_key(r)] for r in mine if _key(r) in kept["wrong"]]
            entry["identified_wrong"] = fmean(np.concatenate(wrong)) if wrong else None
            entry["answered"] = len({row["seed"] for row in mine if row["bleu"] is not None})
            if name not in (to, *START, *BOUNDS):
                entry |= _difference(here, kept, experiment, (to, name), seeds)
            found.append(entry)
    return found


def _in_another_language(answers: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """Say which answers py3langid takes for another language of the experiment, or English.

    Args:
        answers: By a key that ends in the language asked.

    Returns:
        (n,) bool by key; nothing where py3langid is not installed.
    """
    if find_spec("py3langid") is None:
        return {}
    identify, asked = import_module("py3langid"), {key: key.rpartition("/")[2] for key in answers}
    identify.set_languages(sorted({*asked.values(), "en"}))
    return {
        key: np.array([identify.classify(text)[0] != asked[key] for text in texts])
        for key, texts in answers.items()
    }


def _difference(
    rows: list[dict[str, Any]], kept: dict[str, Any], experiment: str, pair: tuple[str, str], seeds: list[int]
) -> dict[str, Any]:
    """Compare the second system of a pair with the first: over the seeds, and over seeds and sentences."""

    silent = {row["seed"] for row in rows if row["system"] in pair and row["bleu"] is None}
    answered = [seed for seed in seeds if seed not in silent]  # of the others there are losses alone

    def compared(key: str, seeds: list[int]) -> dict[str, Any]:
        base, own = (
            [fmean(r[key] for r in rows if (r["system"], r["seed"]) == (system, seed)) for seed in seeds]
            for system in pair
        )
        return asdict(gain(base, own))

    def texts(system: str, code: str, what: str, seeds: list[int]) -> list[list[Any]]:
        return [kept[what][f"{experiment}/{system}/{seed}/{code}"] for seed in seeds]

    for row in rows:  # the committed scores are those of the committed answers
        if row["bleu"] is None:
            continue
        answers = kept["hypotheses"][_key(row)]
        score = bleu(answers, kept["references"][row["language"]], row["language"]).value
        assert abs(score - row["bleu"]) < 1e-6, row
    codes = sorted({row["language"] for row in rows})
    found: dict[str, Any] = {"difference": {}, "pairs": {}}
    if answered:
        texts_of = {
            code: tuple(texts(which, code, "hypotheses", answered) for which in pair) for code in codes
        }
        known = [row for row in rows if row["bleu"] is not None]
        measures = [key for key in ("bleu", "wer") if all(row[key] is not None for row in known)]
        found["difference"] = {key: compared(key, answered) for key in measures}
        found["pairs"]["bleu"] = paired_hypotheses(texts_of, kept["references"])
        if kept["wrong"]:
            wrong_of = {
                code: tuple(texts(which, code, "wrong", answered) for which in pair) for code in codes
            }
            found["in_the_language_asked"] = _where_both_obey(texts_of, wrong_of, kept["references"])
    keys = {f"{experiment}/{which}/{seed}/{code}" for which in pair for seed in seeds for code in codes}
    if keys <= kept.get("losses", {}).keys():  # of some runs only their means were kept
        base, own = ([texts(which, code, "losses", seeds) for code in codes] for which in pair)
        found["difference"]["cross_entropy"] = compared("cross_entropy", seeds)
        found["pairs"]["cross_entropy"] = paired_losses(
            [np.subtract(*pair) for pair in zip(own, base, strict=True)]
        )
    return found | _drawn([found["pairs"]])


def _drawn(groups: Sequence[Mapping[str, Paired]]) -> dict[str, Any]:
    """Return the intervals over seeds and sentences, of all groups together."""
    return {
        name: asdict(bootstrap_over_seeds(*(group[key] for group in groups), num_resamples=count))
        for key, name, count in (
            ("bleu", "over_seeds_and_sentences", 1_000),
            ("cross_entropy", "losses_over_seeds_and_sentences", 10_000),
        )
        if all(key in group for group in groups)
    }


def together(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Take the differences of several experiments as one: all their seeds, each on its own sentences."""
    pooled = []
    for name in dict.fromkeys(row["system"] for row in found if "pairs" in row):
        rows = [row for row in found if row["system"] == name]
        entry: dict[str, Any] = {
            "experiment": " and ".join(row["experiment"] for row in rows), "system": name,
            "seeds": [seed for row in rows for seed in row["seeds"]],
            "answered": sum(row["answered"] for row in rows), "difference": {},
        }  # fmt: skip
        for key in (*COLUMNS, "identified_wrong"):
            known = [row[key] for row in rows for _ in row["seeds"] if row[key] is not None]
            entry[key] = fmean(known) if known else None
        for key in dict.fromkeys(key for row in rows for key in row["difference"]):
            values = [value for row in rows for value in row["difference"].get(key, {}).get("values", ())]
            entry["difference"][key] = asdict(gain([0.0] * len(values), values))
        pooled.append(entry | _drawn([row["pairs"] for row in rows]))
    return pooled


ALONG = {"num_pairs": "number of translated utterances", "steps": "number of training steps"}


def curve(
    targets: Sequence[Path], name: str, along: str = "num_pairs", to: str = "base"
) -> list[dict[str, Any]]:
    """Say what a system and the one it is compared with cost with each number of pairs, or of steps.

    Rows of several folders are taken together, so all must have been scored on the same sentences.

    Args:
        targets: Folders of results.
        name: The system.
        along: A name of ``ALONG``: what differs.
        to: The system that it is compared with.

    Returns:
        By number: the cross-entropy of both, (seeds,), the seeds, how many the other needs for an equal
        score (see :func:`needed`), and where the loss of every sentence is known, by how much the difference
        is another than with the first number, with its interval over seeds and sentences.
    """
    rows = [row for target in targets for row in _collected(target) if row["system"] in (to, name)]
    if _are_of_several_sets(rows):
        raise SystemExit("Rows of different test sentences do not make one curve.")
    of: dict[tuple[str, int, int], dict[str, Any]] = {}
    for row in rows:
        of.setdefault((row["system"], row[along], row["seed"]), {})[row["language"]] = row
    counts = sorted({count for system, count, _ in of if system == name})
    seeds = sorted(  # those that ran everywhere
        set.intersection(
            *({key[2] for key in of if key[:2] == (which, count)} for which in (to, name) for count in counts)
        )
    )

    def mean(which: str, count: int, seed: int) -> float:
        return fmean(row["cross_entropy"] for row in of[which, count, seed].values())

    other, own = (
        np.array([[mean(which, count, seed) for count in counts] for seed in seeds]) for which in (to, name)
    )
    enough = np.array([needed(counts, *both) for both in zip(other, own, strict=True)])
    of_means = needed(counts, other.mean(0), own.mean(0))
    found: list[dict[str, Any]] = [
        {
            along: count, "seeds": seeds, to: other[:, i].tolist(), name: own[:, i].tolist(),
            "needed": enough[:, i].tolist(), "needed_by_the_mean": of_means[i],
        }
        for i, count in enumerate(counts)
    ]  # fmt: skip
    kept: dict[str, list[float]] = {}
    for target in targets:
        kept |= json.loads(gzip.decompress((target / "answers.json.gz").read_bytes())).get("losses", {})

    def saved(count: int) -> list[np.ndarray]:
        """By language, (seeds, sentences); a KeyError where of some runs only means were kept."""
        base, own = ([of[which, count, seed] for seed in seeds] for which in (to, name))
        return [
            np.array(
                [
                    np.subtract(kept[_key(o[code])], kept[_key(b[code])])
                    for o, b in zip(own, base, strict=True)
                ]
            )
            for code in sorted(own[0])
        ]

    for entry in found[1:]:
        with suppress(KeyError):
            changed = [now - first for now, first in zip(saved(entry[along]), saved(counts[0]), strict=True)]
            entry["change"] = asdict(bootstrap_over_seeds(paired_losses(changed), num_resamples=10_000))
    return found


def needed(counts: Sequence[int], other: np.ndarray, own: np.ndarray) -> list[float]:
    """Return at which count the other curve first comes down to each value of one's own.

    Between two counts the other curve is a straight line over log(1 + count).

    Args:
        counts: Rising.
        other, own: (counts,) cross-entropies, less is better.

    Returns:
        By value; infinite where the other does not come so far.
    """
    place, found = np.log1p(counts), list[float]()
    for value in own:
        reached = np.flatnonzero(other <= value)
        if not len(reached):
            found.append(float("inf"))
        elif (i := reached[0]) == 0:
            found.append(float(counts[0]))
        else:
            share = (other[i - 1] - value) / (other[i - 1] - other[i])
            found.append(float(np.expm1(place[i - 1] + share * (place[i] - place[i - 1]))))
    return found


def table_of_curve(found: Sequence[dict[str, Any]], name: str, along: str, to: str = "base") -> str:
    """Return a curve as Markdown, with Student's intervals over the seeds."""
    lines = [
        f"| {along.removeprefix('num_')} | {to} | {name} | difference | of each seed | {to} needs "
        "| of each seed | difference less that of the first line | over seeds and sentences |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    first = np.subtract(found[0][name], found[0][to])
    for row in found:
        gained = gain(row[to], row[name])
        enough = [
            "more" if np.isinf(value) else f"{value:.0f}"
            for value in (row["needed_by_the_mean"], *row["needed"])
        ]
        seeds = " ".join(signed(value, 3) for value in gained.values)
        changed, drawn = gain(first.tolist(), gained.values), row.get("change")
        cells = (
            str(row[along]), f"{fmean(row[to]):.3f}", f"{fmean(row[name]):.3f}",
            _interval(gained.mean, asdict(gained), 3), seeds, enough[0], ", ".join(enough[1:]),
            "" if row is found[0] else _interval(changed.mean, asdict(changed), 3),
            _interval(drawn["difference"], drawn, 3) if drawn else "",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def figure_of_curve(found: Sequence[dict[str, Any]], name: str, along: str, to: str = "base") -> str:
    """Return the same as an SVG: mean cross-entropies over log(1 + count)."""
    where = {float(np.log1p(row[along])): f"{row[along]:,}" for row in found}
    series = [
        {"name": short, "role": role,
         "points": [(x, fmean(row[which])) for x, row in zip(where, found, strict=True)]}
        for which, short, role in ((to, "base", "base"), (name, "aligned", "system"))
    ]  # fmt: skip
    title = f"Cross-entropy of the reference over the {ALONG[along]}"
    across = (
        f"{ALONG[along].removeprefix('number of ')} (upwards: nats a token of the reference, less is better)"
    )
    drawn = {"title": title, "across": across, "ticks": where, "series": series}
    return charts.curves(drawn).standalone()


def _where_both_obey(
    texts_of: Mapping[str, tuple[Sequence[Any], ...]],
    wrong_of: Mapping[str, tuple[Sequence[Any], ...]],
    references: Mapping[str, list[str]],
) -> dict[str, Any]:
    """Return the difference in BLEU over what both systems of a seed answer in the language asked.

    What is left of a difference here is not made by answers in another language. Which sentences are left
    depends on the answers: a description of what came out, not a test.

    Args:
        texts_of, wrong_of: (those of one system, of the other) by language, each (seeds, sentences).
    """

    def score(system: int, seed: int, code: str) -> float:
        kept = np.flatnonzero(~(wrong_of[code][0][seed] | wrong_of[code][1][seed]))
        texts = texts_of[code][system][seed]
        return bleu([texts[i] for i in kept], [references[code][i] for i in kept], code).value

    seeds = range(len(next(iter(texts_of.values()))[0]))
    return asdict(
        gain(*([fmean(score(k, seed, code) for code in texts_of) for seed in seeds] for k in (0, 1)))
    )


def table(found: Sequence[dict[str, Any]]) -> str:
    """Return the report as Markdown: differences to base with Student's interval, and the bootstrap's."""
    lines = list[str]()
    if any(row["bleu"] is not None for row in found):
        lines += [
            "| | seeds | BLEU | difference | seeds and sentences | WER | text | cascade | wrong script "
            "| wrong language | difference where both answer in the language asked | CPU s |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
        ]
    for row in found:
        if row["bleu"] is None:
            continue
        gained = row.get("difference", {}).get("bleu", {})
        drawn, obeyed = row.get("over_seeds_and_sentences"), row.get("in_the_language_asked")
        lines.append(
            f"| {TITLES[row['system']]} | {row['answered']} | {row['bleu']:.1f} | "
            + (f"{_interval(gained['mean'], gained)} | " if gained else "| ")
            + (f"{_interval(drawn['difference'], drawn)} | " if drawn else "| ")
            + f"{_known(row['wer'])} | {_known(row['text_bleu'])} | {_known(row['cascade_bleu'])} | "
            f"{row['wrong_language']:.1%} | "
            + ("" if row["identified_wrong"] is None else f"{row['identified_wrong']:.1%}")
            + (f" | {_interval(obeyed['mean'], obeyed)}" if obeyed else " | ")
            + f" | {row['cpu_seconds']:.0f} |"
        )
    if any(row["cross_entropy"] is not None for row in found):
        head = "| | cross-entropy of the reference | difference | seeds and sentences | of each seed |"
        lines += ["", head, "|---|---|---|---|---|"]
    for row in found:
        if row["cross_entropy"] is None:
            continue
        cells = [TITLES[row["system"]], f"{row['cross_entropy']:.3f}", "", "", ""]
        if gained := row.get("difference", {}).get("cross_entropy"):
            drawn = row["losses_over_seeds_and_sentences"]
            cells[2:] = (
                _interval(gained["mean"], gained, 3), _interval(drawn["difference"], drawn, 3),
                " ".join(signed(value, 3) for value in gained["values"]),
            )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _known(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _interval(mean: float, ends: Mapping[str, Any], digits: int = 1) -> str:
    if ends["low"] is None:
        return signed(mean, digits)
    return f"{signed(mean, digits)} ({signed(ends['low'], digits)} to {signed(ends['high'], digits)})"


def figure(found: Sequence[dict[str, Any]], titles: Mapping[str, str]) -> str:
    """Return the differences to base as an SVG; ``titles`` name the experiments.

    Right of 0 is what helps in BLEU and what harms in the word error rate. Where nobody answered: what is
    saved of the cross-entropy.
    """
    rows = []
    for row in found:
        differences = row.get("difference", {})
        measures = {"bleu": ("BLEU from speech (better →)", 1), "wer": ("word error rate (← better)", 1)}
        if "bleu" not in differences:
            measures = {"cross_entropy": ("cross-entropy saved (.01 nats a token)", -100)}
        for key, (measure, unit) in measures.items():
            if gained := differences.get(key):
                known = [unit * gained[end] for end in ("low", "high") if gained[end] is not None]
                low, high = sorted(known) or (None, None)
                rows.append(
                    {
                        "group": titles.get(row["experiment"], row["experiment"]), "measure": measure,
                        "name": f"{row['experiment']} {row['system']}", "title": TITLES[row["system"]],
                        "mean": unit * gained["mean"], "low": low, "high": high,
                        "values": " ".join(f"{unit * value:.3f}" for value in gained["values"]),
                    }
                )  # fmt: skip
    silent = not any("bleu" in row.get("difference", {}) for row in found)
    return charts.forest({"rows": rows, "far": 20.0, "whole": silent}).standalone()


def main() -> None:
    """Run, collect or report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run")
    run.add_argument("--systems", nargs="+", choices=SYSTEMS, default=["base"])
    run.add_argument("--seeds", nargs="+", type=int, default=[1])
    default = Setting(Path())
    for field in ("steps", "batch", "learning_rate", "align_steps", "clips", "pairs", "start"):
        value = getattr(default, field)
        run.add_argument(f"--{field.replace('_', '-')}", type=type(value), default=value)
    run.add_argument("--no-bounds", action="store_true", help="from speech alone: neither text nor cascade")
    verbs.add_parser("collect").add_argument("target", type=Path)
    verbs.add_parser("report").add_argument("target", type=Path, nargs="+")
    for verb in ("run", "collect"):
        verbs.choices[verb].add_argument("--folder", type=Path, default=Path("runs/zero_shot"))
        splits = SPLITS if verb == "run" else [*SPLITS, "fresh", "others", "more"]
        verbs.choices[verb].add_argument("--split", choices=splits, default="dev")
    verbs.choices["collect"].add_argument(
        "--take", nargs="*", default=[], metavar="EXPERIMENT/SYSTEM=EXPERIMENT/SYSTEM"
    )
    verbs.choices["report"].add_argument(
        "--to", default="base", help="system that the others are compared with"
    )
    verbs.choices["report"].add_argument(
        "--together", nargs="+", action="append", default=[], metavar="SPLIT/EXPERIMENT",
        help="take these as one, too; may be said several times",
    )  # fmt: skip
    for along, what in ALONG.items():
        verbs.choices["report"].add_argument(
            f"--over-{along.removeprefix('num_')}", dest=along, metavar="SYSTEM",
            help=f"of this one instead: what each {what} saves",
        )  # fmt: skip
    verbs.choices["report"].add_argument(
        "--join", action="store_true", help="the folders hold the same runs on different sentences"
    )
    verbs.choices["report"].add_argument("--figure", type=Path, help="SVG to draw")
    verbs.choices["report"].add_argument("--titles", nargs="*", default=[], metavar="SPLIT/EXPERIMENT=TITLE")
    asked = vars(parser.parse_args())
    verb = asked.pop("verb")
    if verb == "run":
        systems, seeds, split, bare = (asked.pop(key) for key in ("systems", "seeds", "split", "no_bounds"))
        setting = Setting(**asked)
        if not (setting.folder / "corpus" / "mt.jsonl").exists():
            prepare(setting.folder)
        for seed in seeds:
            for name in systems:
                go(setting, name, seed, split, not bare)
    elif verb == "collect":
        take = dict(pair.split("=", 1) for pair in asked["take"])
        collect(asked["folder"], asked["target"], asked["split"], take)
    elif along := next((each for each in ALONG if asked[each]), None):
        name = asked[along]
        found = curve(asked["target"], name, along, asked["to"])
        print(table_of_curve(found, name, along, asked["to"]))
        if asked["figure"]:
            write_whole(asked["figure"], figure_of_curve(found, name, along, asked["to"]))
    else:
        targets = [asked["target"]] if asked["join"] else [[target] for target in asked["target"]]
        found = [row for some in targets for row in report(*some, to=asked["to"])]
        groups = asked["together"]
        found += [row for group in groups for row in together([r for r in found if r["experiment"] in group])]
        for experiment in dict.fromkeys(row["experiment"] for row in found):
            print(f"\n{experiment}\n")
            print(table([row for row in found if row["experiment"] == experiment]))
        if asked["figure"]:
            shown = [row for row in found if row["experiment"] not in chain.from_iterable(groups)]
            write_whole(asked["figure"], figure(shown, dict(pair.split("=", 1) for pair in asked["titles"])))


if __name__ == "__main__":
    main()
