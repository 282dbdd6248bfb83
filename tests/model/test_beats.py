"""BEATs: recorded numbers, honest masks, and its own files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from aista.errors import CheckpointError
from aista.model.beats import BeatsConfig, BeatsForAudioTagging, BeatsModel, _our_name, relative_buckets


def tiny(**settings) -> BeatsConfig:
    sizes = dict(hidden_size=32, patch_embed_dim=16, num_hidden_layers=2, num_attention_heads=4)
    return BeatsConfig(**sizes | dict(intermediate_size=64, conv_pos=16, conv_pos_groups=4) | settings)


@pytest.fixture(scope="module")
def model() -> BeatsModel:
    torch.manual_seed(0)
    return BeatsModel(tiny()).eval()


def test_features_do_not_depend_on_the_batch(model):
    lengths = [40, 100, 171, 300]
    fbank = torch.randn(4, 300, 128)
    mask = torch.arange(300)[None] < torch.tensor(lengths)[:, None]
    together = model(fbank, mask)
    for row, length in enumerate(lengths):
        alone = model(fbank[row : row + 1, :length]).features[0]
        assert len(alone) == 8 * (length // 16) == together.mask[row].sum()
        torch.testing.assert_close(together.features[row, : len(alone)], alone, atol=2e-5, rtol=0)
        assert not together.features[row, len(alone) :].any()


def test_padding_content_is_never_heard(model):
    fbank = torch.randn(1, 200, 128)
    mask = torch.arange(200)[None] < 90
    noisy = torch.where(mask[..., None], fbank, 1e4 * torch.randn_like(fbank))
    torch.testing.assert_close(model(fbank, mask).features, model(noisy, mask).features)


def test_less_than_one_patch_is_finite_silence(model):
    features, mask, _ = model(torch.randn(1, 7, 128))
    assert features.shape == (1, 8, 32) and not mask.any() and not features.any()


@pytest.mark.parametrize(
    "settings",
    [
        dict(deep_norm=False, layer_norm_first=True),
        dict(relative_position=False, gated_relative_position=False),
        dict(gated_relative_position=False, conv_bias=True, hidden_act="relu"),
        dict(patch_embed_dim=32),
    ],
)
def test_every_published_variant_runs_and_trains(settings):
    tagger = BeatsForAudioTagging(tiny(**settings, num_labels=3))
    output = tagger(torch.randn(2, 64, 128), labels=torch.tensor([0, 2]))
    output.loss.backward()
    assert output.logits.shape == (2, 3)
    assert all(p.grad is not None for p in tagger.parameters())


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_layers_without_deep_norm_are_torchs_own(norm_first, biased):
    """With a bias of the attention, where there is one, and the norm before the layers or behind them."""
    torch.manual_seed(1)
    settings = dict(deep_norm=False, layer_norm_first=norm_first, relative_position=biased)
    model = BeatsModel(tiny(**settings, gated_relative_position=False)).eval()
    for weight in model.parameters():
        weight.data += 0.2 * torch.randn_like(weight)
    torch.nn.init.ones_(model.norm.weight)
    torch.nn.init.zeros_(model.norm.bias)
    features, mask, states = model(torch.randn(2, 64, 128), output_hidden_states=True)
    length, bias = mask.shape[1], None
    if biased:
        place = torch.arange(length)
        buckets = relative_buckets(
            place - place[:, None], model.config.num_buckets, model.config.max_distance
        )
        bias = model.relative_bias.weight[buckets].permute(2, 0, 1).repeat(2, 1, 1)
    for number, layer in enumerate(model.layers):
        own = torch.nn.TransformerEncoderLayer(
            32, 4, 64, 0.0, activation="gelu", batch_first=True, norm_first=norm_first
        )
        heard = layer.attention
        parts = (heard.query, heard.key, heard.value)
        own.self_attn.in_proj_weight.data = torch.cat([part.weight for part in parts])
        own.self_attn.in_proj_bias.data = torch.cat([part.bias for part in parts])
        own.self_attn.out_proj, own.linear1, own.linear2 = heard.output, layer.ffn_in, layer.ffn_out
        own.norm1, own.norm2 = layer.attention_norm, layer.ffn_norm
        wanted = own(states[number], src_mask=bias)
        torch.testing.assert_close(states[number + 1], wanted, atol=1e-5, rtol=1e-5)
    normed, free = (features, states[0]) if norm_first else (states[0], features)
    torch.testing.assert_close(normed.std(-1, correction=0), torch.ones(2, length), atol=1e-3, rtol=0)
    assert (free.std(-1, correction=0) - 1).abs().mean() > 0.02


def test_tags_are_of_the_real_patches_and_losses_by_hand():
    torch.manual_seed(2)
    tagger = BeatsForAudioTagging(tiny(num_labels=3)).eval()
    fbank, lengths = torch.randn(2, 96, 128), (48, 96)
    mask = torch.arange(96)[None] < torch.tensor(lengths)[:, None]
    together = tagger(fbank, mask).logits
    for row, length in enumerate(lengths):
        features = tagger.beats(fbank[row : row + 1, :length]).features[0]
        torch.testing.assert_close(together[row], tagger.classifier(features.mean(0)))
    chance = together.sigmoid()
    any_of = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.25, 0.0]])
    wanted = -(any_of * chance.log() + (1 - any_of) * (1 - chance).log()).mean()
    torch.testing.assert_close(tagger(fbank, mask, any_of).loss, wanted)
    one = together.softmax(-1)
    wanted = -(one[0, 2].log() + one[1, 0].log()) / 2
    torch.testing.assert_close(tagger(fbank, mask, torch.tensor([2, 0])).loss, wanted)


def test_save_and_load_as_safetensors(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = BeatsModel.from_pretrained(tmp_path)
    assert sorted(again.state_dict()) == sorted(model.state_dict())
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_buckets_are_the_recorded_ones(shared_dir):
    table = np.load(shared_dir / "parity/kit/beats_rel_buckets_320_800.npz")
    assert np.array_equal(relative_buckets(torch.tensor(table["rel"]), 320, 800).numpy(), table["bucket"])


@pytest.mark.parametrize("case", ["single_1p73s", "short_0p4s", "batch_1p0_2p35_3p9s"])
def test_recorded_layers(shared_dir, case):
    """Masks, every layer's output and the features are those of SALMONN's own BEATs."""
    model = BeatsModel.from_checkpoint(shared_dir / "parity/kit/tiny_beats.pt")
    model.config.batch_invariant = False
    recorded = np.load(shared_dir / f"parity/kit/case_{case}.npz")
    kit = {name: torch.tensor(recorded[name]) for name in recorded.files}
    frame_mask = ~kit["mask_fbank"]
    with torch.no_grad():
        features, mask, states = model(kit["beats_fbank_normed"], frame_mask, output_hidden_states=True)
    assert torch.equal(mask, ~kit["mask_tokens"])
    torch.testing.assert_close(states[1], kit["beats_layer0_out"], atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(features, kit["beats_features"], atol=2e-5, rtol=2e-5)


def test_a_head_is_read_where_there_is_one(shared_dir, tmp_path):
    path = shared_dir / "parity/kit/tiny_beats.pt"
    assert BeatsForAudioTagging.from_checkpoint(path).classifier.out_features == 11
    content = torch.load(path, weights_only=True)
    content["model"] = {name: t for name, t in content["model"].items() if not name.startswith("predictor.")}
    content["cfg"]["finetuned_model"] = False
    torch.save(content, tmp_path / "plain.pt")
    BeatsModel.from_checkpoint(tmp_path / "plain.pt")
    with pytest.raises(CheckpointError, match="no classification head"):
        BeatsForAudioTagging.from_checkpoint(tmp_path / "plain.pt")


def _drop(model):
    del model["encoder.layers.1.fc1.bias"]


def _add(model):
    model["encoder.layers.1.fc9.bias"] = torch.zeros(3)


def _rename(model):
    model["encoder.layers.1.fc9.bias"] = model.pop("encoder.layers.1.fc1.bias")


def _permute(model):
    model["encoder.layers.1.fc1.weight"] = model["encoder.layers.1.fc1.weight"].T.contiguous()


def _cut(model):
    model["encoder.layers.1.fc1.weight"] = model["encoder.layers.1.fc1.weight"][:5]


def _unshare(model):
    model["encoder.layers.2.self_attn.relative_attention_bias.weight"] = torch.ones(320, 4)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_drop, "missing"),
        (_add, "does not know"),
        (_rename, "renamed"),
        (_permute, "permuted"),
        (_cut, "another shape"),
        (_unshare, "tables differ"),
    ],
)
def test_each_damage_has_its_own_message(shared_dir, tmp_path, damage, message):
    content = torch.load(shared_dir / "parity/kit/tiny_beats.pt", weights_only=True)
    damage(content["model"])
    torch.save(content, tmp_path / "beats.pt")
    with pytest.raises(CheckpointError, match=message):
        BeatsModel.from_checkpoint(tmp_path / "beats.pt")


def test_a_file_of_another_kind(tmp_path):
    torch.save({"state": {}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not a BEATs checkpoint"):
        BeatsModel.from_checkpoint(tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="does not exist"):
        BeatsModel.from_checkpoint(tmp_path / "nowhere.pt")


def test_every_tensor_of_the_published_file_has_a_place(shared_dir):
    """Names and shapes of the real fine-tuned file: 12 layers, 768 wide, 527 classes."""
    listed = json.loads((shared_dir / "parity/kit/real_size_keys.json").read_text())["beats_ckpt_model_keys"]
    with torch.device("meta"):
        model = BeatsForAudioTagging(BeatsConfig(num_labels=527))
    head = {name: shape for name, shape in listed.items() if name.startswith("predictor.")}
    named = {name.replace("predictor", "classifier"): shape for name, shape in head.items()}
    named |= {f"beats.{_our_name(name)}": shape for name, shape in listed.items() if name not in head}
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == named
