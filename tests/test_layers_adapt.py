"""`adapt` and `merge` on whole models: which layers, what is refused, what comes back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from layer_cases import assert_merged_equals_adapted, assert_stacked_equals_loop, randomise_adapters
from torch import Tensor, nn

import palora
from palora.layers import UnsupportedModuleError, adapted_layers, adapter_parameters


class Residual(nn.Module):
    """A skip around a layer, and a second argument that scales it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(6, 6)
        self.fc2 = nn.Linear(6, 4)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        h = x + torch.tanh(self.fc1(x))
        return self.fc2(h if scale is None else h * scale)


def _mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).double()


def _rays(M: int = 3) -> Tensor:
    return torch.distributions.Dirichlet(torch.ones(2)).sample((M,)).double()


def test_skips_and_second_arguments_just_work() -> None:
    model = randomise_adapters(palora.adapt(Residual().double(), 2, 2))
    assert_stacked_equals_loop(model, torch.randn(5, 6, dtype=torch.float64), _rays())
    x, scale = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)
    with palora.at(model, _rays()) as _, torch.no_grad():
        rays = model.fc1.rays_state.current().rays
        stacked = palora.split(model(x, scale=scale), 3)
    for m in range(3):
        with palora.at(model, rays[m]), torch.no_grad():
            torch.testing.assert_close(stacked[m], model(x, scale=scale))


def test_include_and_exclude_choose_by_name() -> None:
    assert set(adapted_layers(palora.adapt(_mlp(), 2, 1, include="4"))) == {"4"}
    assert set(adapted_layers(palora.adapt(_mlp(), 2, 1, include=["0", "2"]))) == {"0", "2"}
    assert set(adapted_layers(palora.adapt(_mlp(), 2, 1, exclude="[24]"))) == {"0"}
    net = nn.ModuleDict({"trunk": _mlp(), "head": _mlp()})
    assert set(adapted_layers(palora.adapt(net, 2, 1, include="trunk"))) == {"trunk.0", "trunk.2", "trunk.4"}
    partly = randomise_adapters(palora.adapt(_mlp(), 2, 1, include="2"))
    assert_stacked_equals_loop(partly, torch.randn(4, 5, dtype=torch.float64), _rays())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"include": "classifier"}, r"`include` pattern 'classifier' matches no module.*0, 2, 4"),
        ({"exclude": "classifier"}, r"`exclude` pattern 'classifier' matches no module"),
        ({"exclude": "*"}, "no Linear or Conv2d layer to adapt"),
        ({"expand_at": "trunk"}, "`expand_at` pattern 'trunk' matches no module"),
        ({"tasks": 0}, "`tasks` should be"),
        ({"tasks": ["a", "a"]}, "distinct names"),
        ({"form": "dense"}, "`form` should be one of"),
        ({"rank": -1}, "`rank` should be"),
    ],
)
def test_bad_arguments_are_named_and_change_nothing(options: dict[str, Any], message: str) -> None:
    model = _mlp()
    with pytest.raises(ValueError, match=message):
        palora.adapt(model, **{"tasks": 2, "rank": 1, **options})
    assert all(type(m) in (nn.Sequential, nn.Linear, nn.ReLU) for m in model.modules())


def test_adapting_twice_is_an_error() -> None:
    model = palora.adapt(_mlp(), 2, 1)
    with pytest.raises(ValueError, match="adapted already"):
        palora.adapt(model, 2, 1)


def test_parameters_are_the_same_objects_and_a_single_layer_can_be_the_model() -> None:
    model = _mlp()
    before = list(model.parameters())
    palora.adapt(model, 2, 1)
    after = [p for n, p in model.named_parameters() if "lora" not in n]
    assert all(a is b for a, b in zip(before, after, strict=True))
    layer = nn.Linear(4, 3)
    assert palora.adapt(layer, 2, 1) is layer
    assert isinstance(layer, palora.PaLoRALinear)


def test_a_layer_used_twice_is_adapted_once() -> None:
    shared = nn.Linear(5, 5)
    model = randomise_adapters(palora.adapt(nn.Sequential(shared, nn.Tanh(), shared).double(), 2, 1))
    assert len(adapter_parameters(model)) == 2
    assert_stacked_equals_loop(model, torch.randn(4, 5, dtype=torch.float64), _rays())


def test_expanding_at_the_heads_runs_the_trunk_once() -> None:
    model = palora.models.LeNet().double()
    palora.adapt(model, 2, 2, include="heads", expand_at="heads.*")
    calls = []
    model.trunk.register_forward_hook(lambda m, a, out: calls.append(out.shape[0]))
    points = [m for n, m in model.named_modules() if n in ("heads.0", "heads.1")]
    assert all(m._forward_pre_hooks for m in points)
    randomise_adapters(model)
    with palora.at(model, _rays(5)), torch.no_grad():
        y = model(torch.randn(3, 1, 28, 28, dtype=torch.float64))
    assert calls == [3]
    assert y[0].shape[0] == 15
    assert_stacked_equals_loop(model, torch.randn(3, 1, 28, 28, dtype=torch.float64), _rays(4))


def test_a_layer_outside_the_expansion_point_says_so() -> None:
    model = palora.adapt(_mlp(), 2, 1, expand_at="4")
    with palora.at(model, _rays()), pytest.raises(RuntimeError, match="outside an expansion point"):
        model(torch.randn(4, 5, dtype=torch.float64))
    with palora.at(model, _rays()), pytest.raises(RuntimeError, match="outside an expansion point"):
        model[0](torch.randn(4, 5, dtype=torch.float64))


def test_consecutive_expansion_points_expand_once() -> None:
    model = randomise_adapters(palora.adapt(_mlp(), 2, 1, include=["2", "4"], expand_at=["2", "4"]))
    assert_stacked_equals_loop(model, torch.randn(4, 5, dtype=torch.float64), _rays())


def test_batch_sizes_may_look_like_expanded_ones() -> None:
    """Five rays, first four rows, then twenty: the second batch is no leftover of the first."""
    model = randomise_adapters(palora.adapt(_mlp(), 2, 1, include=["2", "4"], expand_at=["2", "4"]))
    with palora.at(model, _rays(5)), torch.no_grad():
        assert model(torch.randn(4, 5, dtype=torch.float64)).shape == (20, 3)
        assert model(torch.randn(20, 5, dtype=torch.float64)).shape == (100, 3)


def test_multihead_attention_is_refused_and_can_be_excluded() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double()
    with pytest.raises(UnsupportedModuleError, match=r"MultiheadAttention 'self_attn'.*exclude=\['self_attn\*'\]"):
        palora.adapt(layer, 2, 1)
    model = randomise_adapters(palora.adapt(layer, 2, 2, exclude="self_attn*"))
    assert_stacked_equals_loop(model, torch.randn(4, 5, 8, dtype=torch.float64), _rays())


def test_transformer_fast_path_does_not_skip_the_adapters() -> None:
    """In evaluation mode torch's encoder layer reads linear1.weight directly and would ignore its adapter."""
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), num_layers=2)
    encoder = encoder.double().eval()
    model = randomise_adapters(palora.adapt(encoder, 2, 2, exclude="*self_attn*"))
    x = torch.randn(4, 5, 8, dtype=torch.float64)
    padding = torch.zeros(4, 5, dtype=torch.bool)
    padding[0, 3:] = True
    ray = torch.tensor([0.2, 0.8], dtype=torch.float64)
    with palora.at(model, ray):
        with torch.no_grad():
            found = model(x, src_key_padding_mask=padding)
        expected = model(x, src_key_padding_mask=padding)  # with gradients there is no fast path
    torch.testing.assert_close(found, expected)
    with palora.at(model, torch.stack([ray, 1 - ray])), torch.no_grad():
        stacked = palora.split(model(x, src_key_padding_mask=padding), 2)
    torch.testing.assert_close(stacked[0], expected)
    assert_merged_equals_adapted(model, x, ray[None])
    merged = palora.merge(model, ray)
    assert merged.layers[0].activation_relu_or_gelu == 1
    assert (
        merged.use_nested_tensor
        == nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), num_layers=2).use_nested_tensor
    )


def test_square_masks_are_not_taken_for_batches() -> None:
    """An (L, L) attention mask with L equal to the batch size stays one mask."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double()
    model = randomise_adapters(palora.adapt(layer, 2, 2, exclude="self_attn*"))
    mask = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    x, rays = torch.randn(5, 5, 8, dtype=torch.float64), _rays()
    with palora.at(model, rays):
        stacked = palora.split(model(x, src_mask=mask), 3)
    with palora.at(model, rays[1]):
        torch.testing.assert_close(stacked[1], model(x, src_mask=mask))


@pytest.mark.parametrize(
    "module, reason",
    [
        (nn.LSTM(4, 4), "batch_first=True"),
        (nn.MultiheadAttention(4, 2), "batch_first=True"),
        (nn.EmbeddingBag(4, 4), "nn.Embedding"),
        (nn.Embedding(4, 4, scale_grad_by_freq=True), "scale_grad_by_freq=False"),
        (nn.Softmax(dim=0), "across rays"),
        (nn.Flatten(0), "flattens the batch"),
        (nn.InstanceNorm2d(4, track_running_stats=True), "track_running_stats=False"),
        (nn.LazyBatchNorm1d(), "run the model once"),
        (type("MyNorm", (nn.BatchNorm1d,), {})(4), "subclass of a batch normalisation"),
    ],
)
def test_modules_that_mix_samples_are_refused(module: nn.Module, reason: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), module)
    with pytest.raises(UnsupportedModuleError, match=reason):
        palora.adapt(model, 2, 1, include="0")
    assert type(model[0]) is nn.Linear


def test_weights_that_are_no_plain_parameters_are_refused() -> None:
    parametrised = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
    with pytest.raises(UnsupportedModuleError, match=r"exclude=\['0'\]"):
        palora.adapt(nn.Sequential(parametrised), 2, 1)
    quantised = nn.Linear(4, 4)
    quantised.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(UnsupportedModuleError, match="no quantised or complex ones"):
        palora.adapt(nn.Sequential(quantised), 2, 1)


def test_merge_leaves_the_model_alone_and_returns_plain_torch() -> None:
    model = randomise_adapters(palora.adapt(_mlp(), ["speed", "range"], 2, alpha=3.0))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    plain = palora.merge(model, (0.25, 0.75))
    assert [type(m) for m in plain.modules()] == [type(m) for m in _mlp().modules()]
    assert list(plain.state_dict()) == list(_mlp().state_dict())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in plain.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert_merged_equals_adapted(model, torch.randn(4, 5, dtype=torch.float64), _rays())
    plain(torch.randn(4, 5, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"`ray` should have shape \(2,\)"):
        palora.merge(model, (0.2, 0.3, 0.5))
    with pytest.raises(ValueError, match="no adapted layers"):
        palora.merge(plain, (0.5, 0.5))


def test_merging_in_bfloat16_rounds_once() -> None:
    model = palora.adapt(nn.Sequential(nn.Linear(8, 8, bias=False)), 2, 2)
    randomise_adapters(model, 0.01)
    model.to(torch.bfloat16)
    merged = palora.merge(model, (0.5, 0.5))[0].weight
    layer = model[0]
    delta = sum(0.5 * layer.lora_A[t].double() @ layer.lora_B[t].double() for t in range(2)) / 2
    assert torch.equal(merged, (layer.weight.double() + delta).float().to(torch.bfloat16))
