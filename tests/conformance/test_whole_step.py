"""An optimisation step is the same however it is cut into micro-batches and processes, or is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing

from aista.alignment import PairedStates, Sizes, alignment, names
from aista.alignment.base import Alignment, gather_pairs, joint_loss, take_pairs
from aista.config import ModelSettings
from aista.data.dataset import Collator, SpeechDataset
from aista.data.manifest import Manifest
from aista.errors import ConfigError
from aista.speech_llm import Batcher
from aista.training.objective import SpeechTextObjective
from aista.training.optimisation import require_whole_steps
from aista.training.stages import fresh_model
from tests import tiny
from tests.conformance.test_alignment import LAYERS, SIZES, build
from tests.engines.launch import free_port
from tests.engines.stages import NO_DROPOUT

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "wasserstein": [{}, {"scale": "cosine"}, {"scale": "text_spread"}, {"spread": {0: 2.0, 2: 3.0}}],
    "ctc": [{}, {"per_token": True}],
}
CASES = [(name, options) for name in names() if name != "none" for options in OPTIONS.get(name, [{}])]
every = pytest.mark.parametrize(("name", "options"), CASES, ids=lambda case: str(case) if case else "")
CUTS = {"4 x 1": [[0], [1], [2], [3]], "2 x 2": [[0, 1], [2, 3]], "3 + 1": [[0, 1, 2], [3]]}


# ---- micro-batches of a model ----


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """A model without dropout, and four pairs, one of which is too short for CTC."""
    folder = tmp_path_factory.mktemp("step")
    values = tiny.pretrain_settings(folder).model_dump()["model"]
    values["qformer"] |= NO_DROPOUT
    values["lora"]["dropout"] = 0.0
    model, processor = fresh_model(ModelSettings.of(values), 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    rows = SpeechDataset(Manifest(tiny.manifest(folder / "st.jsonl", count=4)))
    texts = ("A", "bc", "seven red books", "d")
    items = [
        (utterance.model_copy(update={"text": text}), sound)
        for text, (utterance, sound) in zip(texts, (rows[i] for i in range(4)), strict=True)
    ]
    return model, processor, items


def step(trained: SpeechTextObjective, collator: Collator, micro_batches: list[list]) -> dict[str, Any]:
    """The sums over a step's micro-batches: losses, figures and gradients."""
    batches = [collator(rows) for rows in micro_batches]
    tokens = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches)
    pairs = max(sum(int(trained.usable_pairs(batch["speech"], batch["text"])) for batch in batches), 1)
    trained.zero_grad()
    found: dict[str, Any] = {"loss": 0.0}
    weights: dict[str, float] = {}
    for batch in batches:
        two = {"speech": batch["speech"], "text": batch["text"]}
        joint = trained(**two, num_items_in_batch=tokens, num_pairs=pairs)
        joint.loss.backward()
        found["loss"] += float(joint.loss.detach())
        for name, value in joint.parts.items():
            weight = float(joint.weights.get(name, 1.0))
            found[name] = found.get(name, 0.0) + float(value) * weight
            weights[name] = weights.get(name, 0.0) + weight if name in joint.weights else 1.0
    grown = {n: p.grad.clone() for n, p in trained.named_parameters() if p.grad is not None}
    return {name: value / weights.get(name, 1.0) for name, value in found.items()} | {"gradients": grown}


@every
def test_a_step_is_the_same_however_it_is_cut(name: str, options: dict, parts: tuple) -> None:
    model, processor, items = parts
    method = alignment(name, LAYERS, Sizes(32, 262), **options)
    trained = SpeechTextObjective(model, method, 0.5).train()
    batcher = Batcher(processor, model.config)
    collator = Collator(batcher, transcripts=True, transcript_answers=method.needs_logits)
    if method.over_batch:
        with pytest.raises(ConfigError, match="cannot be cut into micro-batches"):
            require_whole_steps(method, 2)
        return
    require_whole_steps(method, 2)
    whole = step(trained, collator, [items])
    assert all(whole[part] > 0 for part in method.loss_names)
    for cut, rows in CUTS.items():
        found = step(trained, collator, [[items[i] for i in row] for row in rows])
        assert found.keys() == whole.keys(), cut
        for key in whole.keys() - {"gradients"}:
            assert found[key] == pytest.approx(whole[key], rel=1e-5, abs=1e-7), (cut, key)
        assert found["gradients"].keys() == whole["gradients"].keys()
        for key, gradient in whole["gradients"].items():
            torch.testing.assert_close(found["gradients"][key], gradient, atol=2e-6, rtol=1e-4)


@every
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 1, 3, 0)], ids=str)
def test_texts_beside_speech_add_their_cross_entropy_alone(
    name: str, options: dict, order: tuple, parts: tuple
) -> None:
    """Two clips and two texts in one batch: the gradient is Eq. 6's on the clips plus the texts' own."""
    model, processor, items = parts
    alpha = 0.5
    method = alignment(name, LAYERS, Sizes(32, 262), **options)
    trained = SpeechTextObjective(model, method, alpha).train()
    collator = Collator(
        Batcher(processor, model.config), transcripts=True, transcript_answers=method.needs_logits
    )
    spoken, written = items[:2], [as_text(item) for item in items[2:]]
    mixed = step(trained, collator, [[[*spoken, *written][i] for i in order]])

    trained.zero_grad()
    heard, read = collator(spoken), collator(written)
    assert read["text"] is None and read["speech"].heard == ()
    tokens = heard["speech"].num_targets + read["speech"].num_targets
    joint = trained(speech=heard["speech"], text=heard["text"], num_items_in_batch=tokens)
    plain = model(
        **read["speech"].inputs(), labels=read["speech"].labels, num_items_in_batch=tokens
    ).loss  # the whole model, without the objective
    loss = joint.loss + alpha * plain
    loss.backward()
    assert mixed["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    for part in (*method.loss_names, *method.report):
        assert mixed[part] == pytest.approx(float(joint.parts[part]), rel=1e-5, abs=1e-7), part
    wanted = {n: p.grad for n, p in trained.named_parameters() if p.grad is not None}
    assert mixed["gradients"].keys() == wanted.keys()
    for key, gradient in wanted.items():
        torch.testing.assert_close(mixed["gradients"][key], gradient, atol=2e-6, rtol=1e-4)


def as_text(item: tuple) -> tuple:
    """A row of task mt with the text and the translation of a clip."""
    row = item[0].model_copy(update={"audio": None, "duration": None, "task": "mt"})
    return row, row.text


def test_a_micro_batch_of_texts_alone_runs_no_transport(parts: tuple, monkeypatch: Any) -> None:
    model, processor, items = parts
    trained = SpeechTextObjective(model, alignment("wasserstein", LAYERS), 0.5).train()
    collator = Collator(Batcher(processor, model.config), transcripts=True)
    written = [as_text(item) for item in items[2:]]
    mixed, alone = step(trained, collator, [items[:2], written]), step(trained, collator, [items[:2]])
    together = step(trained, collator, [[items[0], written[1], written[0], items[1]]])
    for part in trained.alignment.loss_names:
        assert mixed[part] == pytest.approx(alone[part], rel=1e-5)
    assert mixed["loss"] == pytest.approx(0.5 * mixed["ce"] + 0.25 * sum(
        mixed[part] for part in trained.alignment.loss_names
    ))  # fmt: skip
    assert mixed["loss"] == pytest.approx(together["loss"], rel=1e-5)
    for key, gradient in together["gradients"].items():
        torch.testing.assert_close(mixed["gradients"][key], gradient, atol=2e-6, rtol=1e-4)
    monkeypatch.setattr(trained.alignment, "pair_losses", lambda _: pytest.fail("there is nothing to align"))
    read = collator(written)
    joint = trained(speech=read["speech"], text=read["text"])
    assert [float(joint.parts[part]) for part in trained.alignment.loss_names] == [0.0, 0.0]
    assert float(joint.loss.detach()) == pytest.approx(0.5 * float(joint.parts["ce"]))


# ---- processes ----


def states_of(seed: int = 0) -> PairedStates:
    """Four pairs in float64; the last has no transcript, the third is too short for CTC."""
    generator = torch.Generator().manual_seed(seed)
    heard, written, answered = (9, 5, 2, 7), (4, 2, 3, 0), (5, 2, 4, 3)

    def draw(lengths: tuple[int, ...], width: int) -> Tensor:
        shape = len(lengths), max(lengths), width
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def mask(lengths: tuple[int, ...]) -> Tensor:
        return torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]

    return PairedStates(
        speech={layer: draw(heard, SIZES.hidden_size) for layer in LAYERS},
        speech_mask=mask(heard),
        text={layer: draw(written, SIZES.hidden_size) for layer in LAYERS},
        text_mask=mask(written),
        transcript_ids=torch.randint(SIZES.vocab_size, (4, 4), generator=generator),
        speech_logits=draw(answered, SIZES.vocab_size),
        text_logits=draw(answered, SIZES.vocab_size),
        logits_mask=mask(answered),
    )


def descend(method: Alignment, states: PairedStates, num_pairs: float | None) -> tuple[Tensor, list[Tensor]]:
    """The joint loss and its gradients in the states and in the method's parameters."""
    moved = [*states.speech.values(), *([states.speech_logits] if method.needs_logits else [])]
    moved = [tensor.requires_grad_() for tensor in moved if tensor is not None]
    if method.over_batch:
        states, num_pairs = gather_pairs(states), None
    loss = joint_loss(torch.zeros((), dtype=torch.float64), method(states, num_pairs), 0.0)
    gradients = torch.autograd.grad(loss, [*moved, *method.parameters()], allow_unused=True)
    return loss.detach(), [
        torch.zeros_like(x) if g is None else g
        for x, g in zip([*moved, *method.parameters()], gradients, strict=True)
    ]


def in_a_process(rank: int, port: int, folder: str) -> None:
    """One of two processes: three pairs for the first, one for the second."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    mine = torch.tensor([rank == 0] * 3 + [rank == 1])
    found = {}
    for name, options in CASES:
        method = build_with(name, options)
        states = states_of()
        if not method.needs_logits:
            states = without_logits(states)
        usable = int(method.usable(states.speech_mask, states.text_mask, states.transcript_ids).sum())
        own = take_pairs(states, mine)
        # Engines average over processes: each divides by its share of the step's pairs.
        found[str((name, options))] = descend(method, own, usable / 2)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def build_with(name: str, options: dict) -> Alignment:
    return alignment(name, LAYERS, SIZES, **options).double() if options else build(name).double()


def without_logits(states: PairedStates) -> PairedStates:
    kept = copy.copy(states.__dict__)
    return PairedStates(**{k: None if "logits" in k else v for k, v in kept.items()})


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(in_a_process, (free_port(), str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
@every
def test_two_processes_compute_one_step(name: str, options: dict, shared: list[dict]) -> None:
    method, states = build_with(name, options), states_of()
    loss, gradients = descend(method, states if method.needs_logits else without_logits(states), None)
    (one, ones), (two, twos) = (each[str((name, options))] for each in shared)
    assert loss > 0
    torch.testing.assert_close((one + two) / 2, loss)
    own = len(gradients) - len(list(method.parameters()))
    for k, gradient in enumerate(gradients):
        # Averaged over the processes: states are each process's own, parameters are shared.
        both = torch.cat([ones[k], twos[k]]) / 2 if k < own else (ones[k] + twos[k]) / 2
        torch.testing.assert_close(both, gradient)
