"""The shipped configurations of the paper: values of 5.2 and A.1, sizes on meta, every stage run small."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from aista.config import JointSettings, PretrainSettings, SelectSettings
from aista.experiments.paper.plan import paper_plan
from aista.model import AistaConfig, BeatsConfig, BeatsModel
from aista.model.estimate import on_meta, qwen2_7b, vicuna, whisper_large_v2
from aista.model.loading import qformer_config
from aista.selection.select import select
from aista.training.optimisation import learning_rate, training_arguments
from aista.training.stages import joint, pretrain
from tests import tiny

FOLDER = Path(str(files("aista.experiments.paper") / "configs"))
BACKBONES = ("qwen2-7b", "vicuna-13b")
DIRECTIONS = ("en-zh", "en-ja")
STAGES = {
    **{f"pretrain_{backbone}": PretrainSettings for backbone in BACKBONES},
    **{f"select_{backbone}": SelectSettings for backbone in BACKBONES},
    **{f"joint_{backbone}_{direction}": JointSettings for backbone in BACKBONES for direction in DIRECTIONS},
}


def load(name: str, *overrides: str) -> Any:
    return STAGES[name].load(FOLDER / f"{name}.yaml", overrides)


@pytest.mark.parametrize(("scale", "column"), [("paper", 3), ("base", 4), ("small", 5)])
def test_the_guide_tells_the_settings_of_each_scale(scale: str, column: int, tmp_path: Path) -> None:
    """The table of docs/guides/reproduce.md; "the same" and an empty cell refer to the paper's column."""
    page = (Path(__file__).parents[3] / "docs" / "guides" / "reproduce.md").read_text(encoding="utf-8")
    section = page.split("## The settings of each scale")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.split("|")] for line in section.split("\n") if line.startswith("|")
    ]
    cells = {row[1]: row[column].replace("the same", row[2]) for row in rows}
    plan = paper_plan(scale, tmp_path, ["table2"])
    run, *_ = plan.scope.runs()
    settings = plan.joint(run, plan.scope.systems["ai_sta"])
    train, search = settings.train, plan.evaluation(run).generation
    joint = cells["joint training"]
    assert f"{train.max_steps:,} steps" in joint
    assert float(cells["peak learning rate, both stages"].split()[-1]) == train.learning_rate
    assert cells["clipping of gradients"] == (f"{train.max_grad_norm}" if train.max_grad_norm else "none")
    assert f"`{settings.alignment.options['scale']}`" in cells["cost (`options.scale`)"]
    assert float(cells["alpha"]) == settings.alignment.alpha
    words = "greedy" if search.num_beams == 1 else f"{search.num_beams} beams"
    assert cells["search"] == f"{words}, {search.max_new_tokens} tokens"
    select = plan.select(plan.scope.backbones[0])
    chosen = cells["layers selected by"].replace(",", "")
    assert str(select.num_pairs) in chosen
    assert str(select.threshold_times_chance or select.threshold) in chosen


def test_there_is_a_file_for_every_stage_and_no_other() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == STAGES.keys()


@pytest.mark.parametrize("name", [name for name in STAGES if not name.startswith("select")])
def test_optimisation_is_the_papers(name: str, tmp_path: Path) -> None:
    """5.2 and A.1, as the training loop reads them."""
    train = load(name).train
    args = training_arguments(tmp_path, train.model_copy(update={"precision": "fp32"}), seed=42)
    assert (train.adam_beta1, train.adam_beta2, train.adam_epsilon) == (0.9, 0.999, 1e-8)
    assert (train.weight_decay, train.max_grad_norm) == (0.05, 0.0)
    assert train.per_device_train_batch_size * args.gradient_accumulation_steps == 32
    assert train.precision == "bf16"
    joint_stage = name.startswith("joint")
    warmup = 3_000 if joint_stage else 9_000
    assert learning_rate(0, train) == 1e-6
    assert learning_rate(warmup - 1, train) == pytest.approx(3e-5, rel=1e-3)
    assert learning_rate(train.max_steps, train) == pytest.approx(1e-5)
    if joint_stage:
        assert (train.eval_steps, train.patience) == (3_000, 4)
    else:
        assert train.max_steps == 80_000


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_stages_hang_together(backbone: str, direction: str) -> None:
    first, second = load(f"pretrain_{backbone}"), load(f"select_{backbone}")
    third = load(f"joint_{backbone}_{direction}")
    assert first.output == second.model == third.init
    assert third.alignment.layers == f"{second.output}/layers.json"
    assert (third.alignment.method, third.alignment.alpha) == ("wasserstein", 0.99)
    assert third.alignment.options == {"scale": "raw"}
    assert (second.num_pairs, second.threshold, second.mode) == (1_000, 0.05, "exact")
    assert direction in third.data.train[0] and direction in third.data.validation[0]
    assert first.prompt_pool and not third.prompt_pool


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix: values}
    return {key: v for name, inner in values.items() for key, v in flat(inner, f"{prefix}.{name}").items()}


def differing(one: str, other: str) -> set[str]:
    first, second = (flat(yaml.safe_load((FOLDER / f"{name}.yaml").read_text())) for name in (one, other))
    return {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}


def test_files_differ_only_where_they_should() -> None:
    """YAML has no include: what two files share stands in both, and is kept equal here."""
    bases = {".output", ".model.backbone", ".model.template"}
    assert differing("pretrain_qwen2-7b", "pretrain_vicuna-13b") == bases
    assert differing("select_qwen2-7b", "select_vicuna-13b") == {".output", ".model"}
    for direction in DIRECTIONS:
        pair = (f"joint_{backbone}_{direction}" for backbone in BACKBONES)
        assert differing(*pair) == {".output", ".init", ".alignment.layers"}
    for backbone in BACKBONES:
        pair = (f"joint_{backbone}_{direction}" for direction in DIRECTIONS)
        assert differing(*pair) == {".output", ".data.train", ".data.validation"}


@pytest.mark.parametrize(
    ("backbone", "text", "trained"),
    [("qwen2-7b", qwen2_7b(), 28_121_344), ("vicuna-13b", vicuna("13b"), 33_332_992)],
    ids=BACKBONES,
)
def test_real_sizes_on_meta(backbone: str, text: Any, trained: int) -> None:
    """Each file's own model settings, on the configurations of the real bases."""
    model, speech, audio = load(f"pretrain_{backbone}").model, whisper_large_v2(), BeatsConfig()
    qformer = model.qformer.model_dump()
    window = {name: qformer.pop(name) for name in ("frames_per_window", "queries_per_window")}
    config = AistaConfig(
        speech_config=speech,
        audio_config=audio,
        qformer_config=qformer_config(qformer, speech, audio),
        text_config=text,
        lora=model.lora.model_dump(),
        speech_tokens=model.speech_tokens,
        template=model.template,
        **window,
    )
    assert sum(p.numel() for p in on_meta(config).parameters() if p.requires_grad) == trained
    assert config.tokens_for(5 * 16_000) == config.tokens_for(30 * 16_000) == 88


# ---- every stage, run small ----


def small_vicuna(folder: Path) -> Path:
    """A Llama whose tokenizer has Vicuna's ``<s>`` and ``</s>``."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.tokenizer(folder))
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    tokenizer.save_pretrained(folder)
    sizes = {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 48}
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=3, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def small_beats(folder: Path) -> Path:
    sizes = {"hidden_size": 16, "patch_embed_dim": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    BeatsModel(BeatsConfig(**sizes, intermediate_size=24, conv_pos_groups=4)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("bases")
    return {
        "whisper": tiny.whisper(root / "whisper"),
        "beats": small_beats(root / "beats"),
        "qwen2-7b": tiny.language_model(root / "qwen2"),
        "vicuna-13b": small_vicuna(root / "vicuna"),
        "asr": tiny.manifest(root / "asr.jsonl", count=6, task="asr"),
        "en-zh": tiny.manifest(root / "zh.jsonl", count=6),
        "en-ja": tiny.manifest(root / "ja.jsonl", count=6),
    }


SHORT = ("train.max_steps=2", "train.warmup_steps=1", "train.global_batch_size=4", "data.num_workers=0",
         "train.per_device_train_batch_size=2", "train.save_steps=2", "train.logging_steps=1",
         "data.max_seconds=2.0")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "direction"), list(zip(BACKBONES, DIRECTIONS, strict=True)))
def test_the_road_runs_small(backbone: str, direction: str, bases: dict[str, Path], tmp_path: Path) -> None:
    """Three files through their own stages, with small bases of the same classes and two steps.

    The two joint files that are not run differ from these in paths alone (see above).
    """
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    qformer = [f"model.qformer.{name}={size}" for name, size in sizes.items()]
    first = pretrain(
        load(
            f"pretrain_{backbone}", *SHORT, *qformer, f"output={tmp_path}/pretrain",
            f"model.speech_encoder={bases['whisper']}", f"model.audio_encoder={bases['beats']}",
            f"model.backbone={bases[backbone]}", f"data.train=[{bases['asr']}]",
        )
    )  # fmt: skip
    assert first.steps == 2
    report = select(
        load(
            f"select_{backbone}", f"output={tmp_path}/select", f"model={first.folder}", "num_pairs=4",
            f"data=[{bases['asr']}]",
        )
    )  # fmt: skip
    assert report.selected == [0, 1, 2, 3]  # chance is above 0.05 with four pairs
    run = joint(
        load(
            f"joint_{backbone}_{direction}", *SHORT, f"output={tmp_path}/joint", f"init={first.folder}",
            f"alignment.layers={tmp_path}/select/layers.json", f"data.train=[{bases[direction]}]",
            f"data.validation=[{bases[direction]}]", "train.eval_steps=1", "train.save_steps=1",
        )
    )  # fmt: skip
    assert run.steps == 2 and run.best_token_accuracy is not None
