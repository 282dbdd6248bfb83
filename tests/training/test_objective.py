"""The objective on a tiny model: what runs for whom; reading equals reading with an answer behind."""

from __future__ import annotations

import pytest
import torch

from aista.alignment import Sizes, alignment, names
from aista.data.dataset import Collator, SpeechDataset
from aista.data.manifest import Manifest
from aista.model.processing import AistaProcessor
from aista.model.speech_lm import AistaForConditionalGeneration
from aista.speech_llm import Batcher, SpeechLM
from aista.training.objective import SpeechTextObjective, predictions
from aista.training.stages import fresh_model
from tests import tiny


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    folder = tmp_path_factory.mktemp("objective")
    settings = tiny.pretrain_settings(folder)
    model, processor = fresh_model(settings.model, seed=1)
    return model, processor, SpeechDataset(Manifest(tiny.manifest(folder / "st.jsonl", count=3)))


def batch(processor: AistaProcessor, dataset: SpeechDataset, **options: bool) -> dict:
    collator = Collator(Batcher(processor, processor.config), **options)
    found = collator([dataset[i] for i in range(len(dataset))])
    return {"speech": found["speech"], "text": found["text"]}


def objective(model: AistaForConditionalGeneration, name: str, alpha: float = 0.5) -> SpeechTextObjective:
    method = alignment(name, (0, 2), Sizes(32, 262))
    return SpeechTextObjective(model, method, alpha).train()


def test_an_answer_behind_the_transcript_changes_none_of_its_states(parts: tuple) -> None:
    model, processor, dataset = parts
    model.eval()
    short = batch(processor, dataset, transcripts=True)
    long = batch(processor, dataset, transcripts=True, transcript_answers=True)
    texts = short["text"], long["text"]
    states = [SpeechLM(model).text_states(text, (0, 3)) for text in texts]
    for layer in (0, 3):
        one, other = (state[layer][text.span] for state, text in zip(states, texts, strict=True))
        torch.testing.assert_close(one, other)
    ids, read = long["speech"].labels, long["text"].labels
    assert ids[ids != -100].tolist() == read[read != -100].tolist()


def test_both_branches_predict_the_same_tokens(parts: tuple) -> None:
    """Given the transcript in place of the speech, the reading branch is the model on the text's row."""
    model, processor, dataset = parts
    model.eval()
    given = batch(processor, dataset, transcripts=True, transcript_answers=True)
    written = [dataset.utterance(i).text for i in range(len(dataset))]
    batcher, speech_llm = Batcher(processor, model.config), SpeechLM(model)
    instructions = [Collator(batcher).instruction(dataset.utterance(i)) for i in range(len(dataset))]
    targets = [dataset.utterance(i).target for i in range(len(dataset))]
    row = batcher.training(written, instructions, targets)
    wanted = predictions(model(row.input_ids, row.attention_mask).logits, row.labels)
    outputs = speech_llm.text_outputs(given["text"])
    found = predictions(outputs.logits, given["text"].labels)
    assert torch.equal(found[1], wanted[1])
    torch.testing.assert_close(found[0][found[1]], wanted[0][wanted[1]])
    frozen = speech_llm.text_outputs(given["text"], lora=False)
    torch.testing.assert_close(frozen.logits, outputs.logits)  # fresh LoRA is no LoRA


@pytest.mark.parametrize("name", names())
def test_the_text_branch_runs_for_those_who_look_at_it(
    name: str, parts: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor, dataset = parts
    ran = []
    trained = objective(model, name)
    for branch in ("text_states", "text_outputs"):
        original = getattr(trained.speech_llm, branch)
        monkeypatch.setattr(
            trained.speech_llm, branch, lambda *a, _b=branch, _o=original, **k: ran.append(_b) or _o(*a, **k)
        )
    method = trained.alignment
    joint = trained(
        **batch(processor, dataset, transcripts=method.active, transcript_answers=method.needs_logits)
    )
    joint.loss.backward()
    model.zero_grad()
    wanted = ["text_outputs"] if method.needs_logits else ["text_states"] * method.needs_text
    assert ran == wanted
    assert ("ce" in joint.parts) and all(not part.requires_grad for part in joint.parts.values())
    assert trained.eval()(**batch(processor, dataset)).parts.keys() == {"correct", "tokens", "ce"}


@pytest.mark.parametrize("name", [name for name in names() if name != "none"])
def test_the_loss_is_equation_six(name: str, parts: tuple) -> None:
    model, processor, dataset = parts
    trained = objective(model, name, alpha=0.75)
    given = batch(processor, dataset, transcripts=True, transcript_answers=trained.alignment.needs_logits)
    joint = trained(**given, num_pairs=6)
    report = trained.alignment.report.keys() | {"ce", "token_accuracy"}
    own = [value for key, value in joint.parts.items() if key not in report]
    torch.testing.assert_close(joint.loss.detach(), 0.75 * joint.parts["ce"] + 0.25 * torch.stack(own).mean())


def test_a_validation_counts_targets_and_sums_their_cross_entropy(parts: tuple) -> None:
    model, processor, dataset = parts
    given = batch(processor, dataset)["speech"]
    found = objective(model, "wasserstein").eval()(speech=given).parts
    logits, labels = model(**given.inputs()).logits[:, :-1], given.labels[:, 1:]
    asked = labels != -100
    right = logits.log_softmax(-1).gather(2, labels.clamp(min=0)[..., None])[..., 0]
    torch.testing.assert_close(found["ce"], -right[asked].sum())
    assert int(found["tokens"]) == int(asked.sum())
    assert int(found["correct"]) == int((logits.argmax(-1) == labels)[asked].sum())
