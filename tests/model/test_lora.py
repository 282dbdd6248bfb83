"""LoRA by its formula: W x + alpha / r B A x, whatever the layer's type; put in, switched off, folded in."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from aista.model.lora import add_lora, is_lora, merge, switched, to_base_dtype

SETTINGS = {"r": 3, "alpha": 12, "dropout": 0.25}


def backbone(dtype: torch.dtype = torch.float64, **changes: object) -> nn.Module:
    """A layer with LoRA that is not zero, and one without."""
    torch.manual_seed(0)
    made = nn.ModuleDict({"q": nn.Linear(6, 5), "other": nn.Linear(5, 4)}).to(dtype)
    add_lora(made, {**SETTINGS, **changes}, ["q"])
    for name, weight in made.named_parameters():
        if is_lora(name):
            weight.data.normal_()
    return made


def parts(made: nn.Module) -> tuple[torch.Tensor, ...]:
    named = dict(made.named_parameters())
    names = ("q.base_layer.weight", "q.base_layer.bias", "q.lora_A.default.weight", "q.lora_B.default.weight")
    return tuple(named[name].double() for name in names)


def test_a_layer_is_its_formula_with_dropout_on_the_way_in() -> None:
    made, x = backbone(), torch.randn(50, 6, dtype=torch.float64)
    weight, bias, down, up = parts(made)
    assert {n for n, p in made.named_parameters() if p.requires_grad} == {
        "q.lora_A.default.weight", "q.lora_B.default.weight",
    }  # fmt: skip
    assert all(p.dtype == torch.float32 for n, p in made.named_parameters() if is_lora(n))
    torch.manual_seed(5)
    found = made.train()["q"](x)
    torch.manual_seed(5)
    dropped = F.dropout(x.float(), 0.25).double()
    torch.testing.assert_close(
        found, F.linear(x, weight, bias) + 12 / 3 * dropped @ down.T @ up.T, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        made.eval()["q"](x), F.linear(x, weight + 12 / 3 * up @ down, bias), atol=1e-5, rtol=0
    )


def test_without_targets_or_rank_there_is_none_and_all_is_frozen() -> None:
    for settings, targets in (({"r": 0}, ["q"]), ({}, [])):
        made = nn.ModuleDict({"q": nn.Linear(6, 5)})
        add_lora(made, {**SETTINGS, **settings}, targets)
        assert type(made["q"]) is nn.Linear and not any(p.requires_grad for p in made.parameters())


def test_switched_off_a_layer_is_its_base_for_a_while_even_after_an_error() -> None:
    made, x = backbone().eval(), torch.randn(2, 6, dtype=torch.float64)
    adapted, plain = made["q"](x), F.linear(x, *parts(made)[:2])
    with switched(made, True):
        assert torch.equal(made["q"](x), adapted)
    with pytest.raises(KeyError), switched(made, False):
        assert torch.equal(made["q"](x), plain)
        raise KeyError
    assert torch.equal(made["q"](x), adapted)
    assert all(p.requires_grad == is_lora(n) for n, p in made.named_parameters())


def test_merged_a_layer_is_a_plain_one_of_the_sum() -> None:
    made, x = backbone(), torch.randn(4, 6, dtype=torch.float64)
    weight, _, down, up = parts(made)
    whole = deepcopy(made)
    merge(whole)
    assert type(whole["q"]) is nn.Linear and not any(map(is_lora, whole.state_dict()))
    assert not hasattr(whole, "peft_config")
    torch.testing.assert_close(whole["q"].weight, weight + 12 / 3 * up @ down, atol=1e-5, rtol=0)
    torch.testing.assert_close(whole["q"](x), made.eval()["q"](x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_beside_sixteen_bits_matrices_have_as_many(kind: torch.dtype) -> None:
    made = backbone(kind)
    before = parts(made)[2]
    to_base_dtype(made)
    wanted = kind if kind.itemsize == 2 else torch.float32
    found = {p.dtype for n, p in made.named_parameters() if is_lora(n)}
    assert found == {wanted} and torch.equal(parts(made)[2], before.to(wanted).double())
