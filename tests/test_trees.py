"""Containers of tensors, in and out of a model under rays: the type stays, every tensor in it is reached."""

from __future__ import annotations

import types
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import palora
from palora.trees import first_tensor, map_tensors, walk

Pair = namedtuple("Pair", "logits other")


class Output(OrderedDict):
    """Items are attributes, too, as in Hugging Face's model outputs."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Attributes(dict):
    """The common recipe of a dictionary that is its own namespace."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.__dict__ = self


@dataclass
class Record:
    logits: Tensor
    note: str = "kept"
    parts: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Frozen:
    logits: Tensor


@dataclass
class ModelOutput(OrderedDict):
    """A dataclass that is a mapping: both show the same values."""

    logits: Tensor | None = None
    loss: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("logits", "loss"):
            if getattr(self, name) is not None:
                OrderedDict.__setitem__(self, name, getattr(self, name))


class Slotted:
    __slots__ = ("logits",)

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class ReadOnly(Mapping[str, Tensor]):
    def __init__(self, items: dict[str, Tensor]) -> None:
        self._items = dict(items)

    def __getitem__(self, key: str) -> Tensor:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


class Named(list):
    name = "kept"


KINDS = {
    "dict": lambda t: {"logits": t},
    "OrderedDict subclass": lambda t: Output(logits=t),
    "dict that is its namespace": lambda t: Attributes(logits=t),
    "defaultdict": lambda t: defaultdict(list, logits=t),
    "UserDict": lambda t: UserDict(logits=t),
    "read-only mapping": lambda t: ReadOnly({"logits": t}),
    "mappingproxy": lambda t: types.MappingProxyType({"logits": t}),
    "dataclass": lambda t: Record(t),
    "frozen dataclass": lambda t: Frozen(t),
    "dataclass and mapping": lambda t: ModelOutput(logits=t),
    "types.SimpleNamespace": lambda t: types.SimpleNamespace(logits=t),
    "named tuple": lambda t: Pair(t, None),
    "nested": lambda t: Record(t, parts=[t, {"a": (t,)}]),
}


def logits(value: Any) -> list[Tensor]:
    """The tensor by every way that the container has."""
    found = []
    if isinstance(value, (Mapping, UserDict)):
        found.append(value["logits"])
    if hasattr(value, "logits"):
        found.append(value.logits)
    return found


class Net(nn.Module):
    """Takes a container, returns one."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.fc, self.kind = nn.Linear(5, 3), kind

    def forward(self, batch: Any) -> Any:
        x = logits(batch)[0] if not isinstance(batch, Tensor) else batch
        return self.kind(self.fc(x))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_a_model_may_take_and_return_any_container(kind: Any) -> None:
    torch.manual_seed(0)
    model = palora.adapt(Net(kind).double(), 2, 2)
    nn.init.normal_(model.fc.lora_A)
    x, rays = torch.randn(4, 5).double(), torch.rand(3, 2).double()
    expected = torch.stack([palora.merge(model, ray).fc(x) for ray in rays])
    with palora.at(model, rays):
        out = model(kind(x))
    before = [t.clone() for t in logits(out)]
    parts = palora.split(out, 3)
    assert type(parts) is type(kind(x))
    assert logits(parts)
    for found in logits(parts):
        torch.testing.assert_close(found, expected)
    for old, now in zip(before, logits(out), strict=True):  # the original is left alone
        assert torch.equal(old, now)
    if isinstance(parts, Record):
        assert parts.note == "kept"
        assert all(t.shape == (3, 4, 3) for t in parts.parts[:1])


def test_nested_values_are_all_reached() -> None:
    x = torch.arange(12).view(6, 2)
    tree = {"a": [x, (x, None)], "b": Record(x, parts=[x]), 3: "text", "s": x.shape}
    parts = palora.split(tree, 3)
    for found in (parts["a"][0], parts["a"][1][0], parts["b"].logits, parts["b"].parts[0]):
        assert torch.equal(found, x.view(3, 2, 2))
    assert parts[3] == "text"
    assert parts["s"] is tree["s"]


def test_types_beyond_the_builtin_ones_keep_what_they_carry() -> None:
    named = Named([torch.zeros(4, 2)])
    named.name = "own"
    parts = palora.split(named, 2)
    assert type(parts) is Named
    assert parts.name == "own"
    assert parts[0].shape == (2, 2, 2)
    best = torch.randn(4, 5).max(dim=1)  # a struct sequence of PyTorch
    parts = palora.split(best, 2)
    assert type(parts) is type(best)
    assert parts.indices.shape == (2, 2)


def test_containers_without_a_change_are_themselves() -> None:
    """So that what a model appends to a list it was given is seen by the caller."""
    seen: list[int] = []
    tree = {"seen": seen, "x": torch.zeros(2)}
    made = map_tensors(lambda t: t + 1, tree)
    assert made is not tree
    assert made["seen"] is seen
    assert map_tensors(lambda t: t, tree) is tree


def test_paths_and_the_first_tensor() -> None:
    tree = Record(torch.zeros(()), parts=[torch.ones(2), {"k": torch.ones(3)}])
    paths: list[str] = []
    walk("batch", tree, lambda path, t: (paths.append(path), t)[1])
    assert paths == ["batch.logits", "batch.parts.0", "batch.parts.1.k"]
    found = first_tensor(tree)
    assert found is not None
    assert found.shape == (2,)


@pytest.mark.parametrize(
    "value",
    [
        types.new_class("Own")(),
        Slotted(torch.zeros(4, 2)),
        torch.distributions.Normal(torch.zeros(4, 2), 1.0),
        nn.utils.rnn.pack_sequence([torch.zeros(4, 2), torch.zeros(3, 2)]),
    ],
    ids=["an object", "slots", "a distribution", "a packed sequence"],
)
def test_split_refuses_what_it_cannot_take_apart(value: Any) -> None:
    if type(value).__name__ == "Own":
        value.held = torch.zeros(4, 2)
    with pytest.raises(TypeError, match=rf"Found a {type(value).__name__} that holds tensors"):
        palora.split({"y": value}, 2)


def test_caches_of_language_models_pass() -> None:
    Cache = types.new_class("Cache")
    cache = types.new_class("DynamicCache", (Cache,))()
    cache.keys = [torch.zeros(4, 2)]
    parts = palora.split({"y": torch.zeros(4, 2), "past": cache}, 2)
    assert parts["past"] is cache


@pytest.mark.parametrize("rays", [0, -1, True, 2.0, torch.ones(2, 2)])
def test_split_wants_a_number_of_rays(rays: Any) -> None:
    with pytest.raises(ValueError, match="`rays` should be the number of rays"):
        palora.split(torch.zeros(4, 2), rays)


def test_a_container_that_cannot_be_made_again_is_named() -> None:
    class Stubborn(tuple):
        def __new__(cls, a: Tensor, b: Tensor) -> Any:
            return super().__new__(cls, (a, b))

    with pytest.raises(TypeError, match="A Stubborn cannot be made again"):
        palora.split(Stubborn(torch.zeros(4), torch.zeros(4)), 2)


def test_compiled_through_containers_without_a_break() -> None:
    model = palora.adapt(Net(lambda t: {"logits": t}), 2, 2)
    x, rays = torch.randn(4, 5), torch.rand(3, 2)

    @torch.compile(fullgraph=True, backend="eager")
    def step(x: Tensor, rays: Tensor) -> Any:
        with palora.at(model, rays):
            return palora.split(model({"logits": x}), 3)

    with palora.at(model, rays):
        expected = palora.split(model({"logits": x}), 3)
    torch.testing.assert_close(step(x, rays)["logits"], expected["logits"])


def test_a_model_is_asked_with_an_object_that_holds_a_graph() -> None:
    """What goes in may have been made by another model that is trained along."""

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, features: types.SimpleNamespace) -> torch.Tensor:
            return self.layer(features.x)

    model = palora.adapt(Head(), 2, 1)
    source = torch.randn(4, 3, requires_grad=True)
    with palora.at(model, torch.rand(3, 2)):
        model(types.SimpleNamespace(x=source * 2)).sum().backward()
    assert source.grad is not None
