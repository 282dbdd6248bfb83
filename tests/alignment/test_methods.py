"""CTC, contrastive and distillation against what their equations say, item by item."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from aista.alignment import PairedStates, Sizes, alignment
from aista.alignment.ctc import repeats
from aista.errors import ConfigError

WIDTH, VOCABULARY = 8, 10


def states(**changes: object) -> PairedStates:
    generator = torch.Generator().manual_seed(3)
    values = {
        "speech": {0: torch.randn(4, 6, WIDTH, generator=generator)},
        "speech_mask": torch.arange(6)[None] < torch.tensor([6, 4, 5, 2])[:, None],
        "text": {0: torch.randn(4, 4, WIDTH, generator=generator)},
        "text_mask": torch.arange(4)[None] < torch.tensor([4, 3, 2, 2])[:, None],
        "transcript_ids": torch.tensor([[1, 2, 3, 1], [4, 4, 5, 0], [6, 7, 0, 0], [8, 8, 0, 0]]),
    }
    return PairedStates(**values | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("per_token", [False, True])
def test_ctc_is_torchs_on_the_pairs_that_have_a_path(per_token: bool) -> None:
    method = alignment("ctc", (3,), Sizes(WIDTH, VOCABULARY), per_token=per_token)
    given = states()
    loss = method(given)["ctc_0"]
    head, wanted = method.head, []  # type: ignore[assignment]
    for row, (heard, written) in enumerate([(6, 4), (4, 3), (5, 2), (2, 2)]):
        logits = head(given.speech[0][row, :heard])
        one = F.ctc_loss(
            logits.log_softmax(-1)[:, None],
            given.transcript_ids[row, None, :written],
            torch.tensor([heard]),
            torch.tensor([written]),
            blank=VOCABULARY,
            reduction="none",
        )
        wanted.append(one / (written if per_token else 1))
    assert wanted[3].isinf()  # "8 8" needs a blank between: three windows
    torch.testing.assert_close(loss, torch.cat(wanted[:3]).mean())
    assert method.report["ctc_too_short"] == 0.25


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize(("side", "length", "most"), [("speech_mask", 6, 1), ("text_mask", 4, 0)])
def test_ctc_of_a_batch_without_any_path_is_zero(per_token: bool, side: str, length: int, most: int) -> None:
    method = alignment("ctc", (0,), Sizes(WIDTH, VOCABULARY), per_token=per_token)
    given = states(**{side: torch.arange(length)[None] < torch.full((4, 1), most)})
    loss = method(given)["ctc_0"]
    loss.backward()
    assert loss == 0 and method.report["ctc_too_short"] == 1
    assert all(not parameter.grad.any() for parameter in method.parameters())


def test_ctc_may_name_tokens_by_their_embeddings() -> None:
    """Cosines with the embeddings of the batch's tokens, and with one vector for the blank."""
    table = torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(5))
    given = states()
    given = states(text={0: table[given.transcript_ids]})
    method = alignment("ctc", (0,), Sizes(WIDTH, VOCABULARY), head="embeddings", temperature=0.2)
    with torch.no_grad():
        method.blank_bias.fill_(0.3)
    known = given.transcript_ids[:3][given.text_mask[:3]].unique()  # row 3 has no path and is left out
    wanted = []
    for row, (heard, written) in enumerate([(6, 4), (4, 3), (5, 2)]):
        columns = [
            F.cosine_similarity(given.speech[0][row, :heard], vector[None]) / 0.2
            for vector in [*table[known], method.blank_vector.detach()]
        ]
        columns[-1] = columns[-1] + 0.3
        ids = torch.tensor([[known.tolist().index(int(i)) for i in given.transcript_ids[row, :written]]])
        one = F.ctc_loss(
            torch.stack(columns, 1).log_softmax(-1)[:, None], ids,
            torch.tensor([heard]), torch.tensor([written]), blank=len(known), reduction="none",
        )  # fmt: skip
        wanted.append(one)
    given.speech[0].requires_grad_()
    loss = method(given)["ctc_0"]
    torch.testing.assert_close(loss, torch.cat(wanted).mean())
    assert method.report["ctc_too_short"] == 0.25
    assert method.over_batch
    loss.backward()
    assert method.blank_vector.grad is not None and method.blank_bias.grad is not None
    assert not given.speech[0].grad[~given.speech_mask].any()  # type: ignore[index]


def test_retrieval_ctc_is_the_sum_of_its_two_parts_each_with_its_temperature() -> None:
    given, sizes = states(), Sizes(WIDTH, VOCABULARY)
    both = alignment("retrieval_ctc", (0,), sizes, temperature=0.2, retrieval_temperature=0.5)
    named = alignment("ctc", (0,), sizes, per_token=True, head="embeddings", temperature=0.2)
    named.load_state_dict(both.ctc.state_dict())  # type: ignore[union-attr]
    found = alignment("retrieval", (0,), temperature=0.5)
    parts = [method.pair_losses(given) for method in (found, named)]
    wanted = parts[0]["retrieval_0"] + parts[1]["ctc_0"]
    torch.testing.assert_close(both.pair_losses(given)["retrieval_ctc_0"], wanted)
    assert both.report["ctc_too_short"] == 0.25
    assert both.report["retrieval_accuracy"] == found.report["retrieval_accuracy"]


@pytest.mark.parametrize("head", ["own", "embeddings"])
def test_ctc_reads_what_the_speech_tokens_name(head: str) -> None:
    """Repeats and blanks are left out, and what stands behind a row's end is not read."""
    table = torch.eye(VOCABULARY, WIDTH)
    method = alignment("ctc", (0,), Sizes(WIDTH, VOCABULARY), head=head)
    silence = torch.full((WIDTH,), -1.0)
    with torch.no_grad():
        if head == "own":
            method.head.weight.copy_(torch.cat([table, silence[None] / WIDTH]))
            method.head.bias.zero_()
        else:
            method.blank_vector.copy_(silence)
    spoken = torch.stack([table[1], table[1], silence, table[1], table[4], table[2]])
    ids = torch.tensor([[1, 1, 4, 2]])
    given = PairedStates(
        speech={0: spoken[None].repeat(2, 1, 1)},
        speech_mask=torch.arange(6)[None] < torch.tensor([[6], [5]]),
        text={0: table[ids].repeat(2, 1, 1)},
        text_mask=torch.ones(2, 4, dtype=torch.bool),
        transcript_ids=ids.repeat(2, 1),
    )
    assert method.read(given) == [[1, 1, 4, 2], [1, 1, 4]]


@pytest.mark.parametrize("name", ["ctc", "contrastive", "distillation", "retrieval", "retrieval_ctc"])
@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_would_turn_the_loss_around_is_refused(name: str, temperature: float) -> None:
    with pytest.raises(ConfigError, match="temperature must be above 0"):
        alignment(name, (0,), Sizes(WIDTH, VOCABULARY), temperature=temperature)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("wasserstein", {"scal": "cosine"}, "scal[^$]*scale"),
        ("wasserstein", {"scale": "standardized"}, "standardized[^$]*standardised"),
        ("wasserstein", {"epsilon": "small"}, "epsilon is a number"),
        ("wasserstein", {"spread": {"0": 0.0}}, "above 0"),
        ("retrieval_ctc", {"foo": 1}, "foo[^$]*similarity"),
    ],
)
def test_an_option_that_does_not_exist_is_said(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        alignment(name, (0,), Sizes(WIDTH, VOCABULARY), **options)


def test_fixed_spreads_come_as_json_has_them() -> None:
    plain, fixed = (alignment("wasserstein", (0,), **given) for given in ({}, {"spread": {"0": 2.0}}))
    (one,), (other,) = (method(states()).values() for method in (plain, fixed))
    torch.testing.assert_close(one, 2.0 * other)


def test_an_unknown_head_of_ctc_is_refused() -> None:
    with pytest.raises(ConfigError, match="head"):
        alignment("ctc", (0,), Sizes(WIDTH, VOCABULARY), head="none")


def test_repeats_are_neighbours_within_the_transcript() -> None:
    ids = torch.tensor([[1, 1, 1, 1], [1, 2, 1, 2], [3, 3, 0, 0], [5, 5, 5, 6]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1]]).bool()
    assert repeats(ids, mask).tolist() == [2, 0, 1, 1]  # of the last, a prompt's token stands before it


def mean(side: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.stack([row[real].mean(0) for row, real in zip(side, mask, strict=True)])


def test_contrastive_is_the_n_pair_loss() -> None:
    given = states()
    speech, text = mean(given.speech[0], given.speech_mask), mean(given.text[0], given.text_mask)
    wanted = []
    for i in range(4):
        gaps = [math.exp(float(speech[i] @ (text[j] - text[i]))) for j in range(4) if j != i]
        wanted.append(math.log(1 + sum(gaps)))
    loss = alignment("contrastive", (2,))(given)["contrastive_0"]
    assert float(loss) == pytest.approx(sum(wanted) / 4, rel=1e-5)


def test_contrastive_options_scale_the_similarity() -> None:
    given = states()
    speech, text = mean(given.speech[0], given.speech_mask), mean(given.text[0], given.text_mask)
    cosines = F.cosine_similarity(speech[:, None], text[None], dim=-1)
    wanted = F.cross_entropy(cosines / 0.1, torch.arange(4))
    found = alignment("contrastive", (0,), temperature=0.1, normalise=True)(given)["contrastive_0"]
    torch.testing.assert_close(found, wanted)


def test_the_same_transcript_is_no_negative() -> None:
    """Rows 0 and 1 say the same: for both, the other is not there. (What is masked does not count.)"""
    ids = torch.tensor([[1, 2, 9, 9], [1, 2, 7, 7], [1, 2, 3, 9], [5, 5, 9, 9]])
    mask = torch.arange(4)[None] < torch.tensor([2, 2, 3, 2])[:, None]
    given = states(transcript_ids=ids, text_mask=mask)
    speech, text = mean(given.speech[0], given.speech_mask), mean(given.text[0], mask)
    wanted = []
    for i, others in enumerate([(2, 3), (2, 3), (0, 1, 3), (0, 1, 2)]):
        logits = speech[i] @ text[[i, *others]].T
        wanted.append(F.cross_entropy(logits, torch.tensor(0)))
    found = alignment("contrastive", (0,))(given)["contrastive_0"]
    torch.testing.assert_close(found, torch.stack(wanted).mean())


def two_rows(**logits: torch.Tensor) -> PairedStates:
    given = states()
    masks = {"speech_mask": given.speech_mask[:2], "text_mask": given.text_mask[:2]}
    return states(**masks, transcript_ids=given.transcript_ids[:2], **logits)


def logits(seed: int) -> torch.Tensor:
    return torch.randn(2, 3, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3


def test_distillation_is_the_divergence_of_the_two_distributions() -> None:
    heard, read = logits(0).requires_grad_(), logits(1)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    given = two_rows(speech_logits=heard, text_logits=read, logits_mask=mask)
    loss = alignment("distillation", (5,))(given)["distillation"]
    p, q = read.softmax(-1), heard.softmax(-1)
    divergence = (p * (p / q).log()).sum(-1)
    torch.testing.assert_close(loss, (divergence[0].mean() + divergence[1, 0]) / 2)
    loss.backward()
    torch.testing.assert_close(heard.grad[1, 0], ((q - p) / 2)[1, 0].detach())
    same = two_rows(speech_logits=read, text_logits=read, logits_mask=mask)
    assert alignment("distillation", (0,))(same)["distillation"] == 0


def test_a_soft_teacher() -> None:
    given = two_rows(
        speech_logits=logits(0), text_logits=logits(1), logits_mask=torch.ones(2, 3, dtype=torch.bool)
    )
    cold = two_rows(
        speech_logits=logits(0) / 2, text_logits=logits(1) / 2, logits_mask=torch.ones(2, 3, dtype=torch.bool)
    )
    soft = alignment("distillation", (0,), temperature=2.0)(given)["distillation"]
    torch.testing.assert_close(soft, 4 * alignment("distillation", (0,))(cold)["distillation"])
