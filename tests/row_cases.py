"""Models whose rows are not plainly the batch's, with what should become of each: right, or refused with a reason.

Each case is a model, its arguments, options of `adapt`, and None for "as a loop" or a pattern of the refusal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import palora

RAYS = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]], dtype=torch.float64)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


class Net(nn.Module):
    """Named layers and a function as forward."""

    def __init__(self, call: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.call = call

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(self, *args, **kwargs)


class Case(NamedTuple):
    build: Callable[[], tuple[nn.Module, tuple[Any, ...]]]
    refusal: str | None
    options: dict[str, Any]

    def make(self) -> nn.Module:
        return self.build()[0]

    def args(self) -> tuple[Any, ...]:
        torch.manual_seed(1)
        return self.build()[1]


CASES: dict[str, Case] = {}


def case(
    name: str, refusal: str | None = None, **options: Any
) -> Callable[[Callable[[], tuple[nn.Module, tuple[Any, ...]]]], None]:
    def add(build: Callable[[], tuple[nn.Module, tuple[Any, ...]]]) -> None:
        CASES[name] = Case(build, refusal, options)

    return add


def linears(**sizes: tuple[int, int]) -> dict[str, nn.Module]:
    return {name: nn.Linear(*size) for name, size in sizes.items()}


# Token axes in every place.


@case("tokens are folded into rows sample by sample")
def _() -> Any:
    def call(m: Any, x: Tensor) -> Tensor:
        return m.b(torch.tanh(m.a(x.flatten(0, 1)))).view(x.shape[0], x.shape[1], -1)

    return Net(call, **linears(a=(6, 6), b=(6, 3))), (randn(2, 9, 6),)


@case("patches become rows: windows of an image", None)
def _() -> Any:
    def call(m: Any, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        windows = x.view(n, c, 2, h // 2, 2, w // 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, h * w // 4, c)
        y = m.b(torch.tanh(m.a(windows)))
        return y.view(n, 2, 2, h // 2, w // 2, -1).permute(0, 5, 1, 3, 2, 4).reshape(n, -1, h, w)

    return Net(call, **linears(a=(6, 6), b=(6, 3))), (randn(2, 6, 6, 6),)


@case("sequence-first inside, nine tokens for three rays", "batch in dimension 1")
def _() -> Any:
    return (
        Net(lambda m, x: m.b(torch.tanh(m.a(x.transpose(0, 1))).transpose(0, 1)), **linears(a=(6, 6), b=(6, 3))),
        (randn(2, 9, 6),),
    )


@case("sequence-first inside, declared", rows={"a": 1})
def _() -> Any:
    return (
        Net(lambda m, x: m.b(torch.tanh(m.a(x.transpose(0, 1))).transpose(0, 1)), **linears(a=(6, 6), b=(6, 3))),
        (randn(2, 9, 6),),
    )


@case("sequence-first and square: as many tokens as stacked rows", "batch in dimension 1")
def _() -> Any:
    return (
        Net(lambda m, x: m.b(torch.tanh(m.a(x.transpose(0, 1))).transpose(0, 1)), **linears(a=(6, 6), b=(6, 3))),
        (randn(2, 6, 6),),
    )


def _token_major(m: Any, x: Tensor) -> Tensor:
    n, length, _ = x.shape
    y = m.b(torch.tanh(m.a(x.transpose(0, 1).reshape(n * length, -1))))
    return y.view(length, n, -1).transpose(0, 1)


@case("tokens are folded into rows token by token", "token by token")
def _() -> Any:
    return Net(_token_major, **linears(a=(6, 6), b=(6, 3))), (randn(4, 3, 6),)


@case("tokens are folded into rows token by token, declared", rows={"*": "inner"})
def _() -> Any:
    return Net(_token_major, **linears(a=(6, 6), b=(6, 3))), (randn(4, 3, 6),)


def _two_views(m: Any, x: Tensor) -> Tensor:
    y = m.b(torch.tanh(m.a(torch.cat([x, x.flip(1)]))))
    one, two = y.chunk(2)
    return (one - two).abs()


@case("two views in one batch", "view by view")
def _() -> Any:
    return Net(_two_views, **linears(a=(6, 6), b=(6, 3))), (randn(4, 6),)


@case("two views in one batch, declared", rows={"*": "inner"})
def _() -> Any:
    return Net(_two_views, **linears(a=(6, 6), b=(6, 3))), (randn(4, 6),)


@case("two views in one batch of images, declared", rows={"*": "inner"})
def _() -> Any:
    def call(m: Any, x: Tensor) -> Tensor:
        one, two = m.head(torch.relu(m.conv(torch.cat([x, x.flip(3)]))).mean((2, 3))).chunk(2)
        return one * two

    return Net(call, conv=nn.Conv2d(2, 4, 3), head=nn.Linear(4, 3)), (randn(3, 2, 6, 6),)


@case("two views in one batch of images with batch normalisation, declared", rows={"*": "inner"})
def _() -> Any:
    def call(m: Any, x: Tensor) -> Tensor:
        one, two = m.head(torch.relu(m.norm(m.conv(torch.cat([x, x.flip(3)])))).mean((2, 3))).chunk(2)
        return one * two

    return Net(call, conv=nn.Conv2d(2, 4, 3), norm=nn.BatchNorm2d(4), head=nn.Linear(4, 3)), (randn(3, 2, 6, 6),)


@case("two views beside each other, sample by sample")
def _() -> Any:
    def call(m: Any, x: Tensor) -> Tensor:
        y = m.b(torch.tanh(m.a(torch.stack([x, x.flip(1)], dim=1).flatten(0, 1))))
        return y.unflatten(0, (-1, 2)).prod(1)

    return Net(call, **linears(a=(6, 6), b=(6, 3))), (randn(4, 6),)


# Rows that come from elsewhere.


class Queries(nn.Module):
    def __init__(self, values: Tensor, grown: bool) -> None:
        super().__init__()
        self.queries = nn.Parameter(values)
        self.key, self.query, self.out = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.grown = grown

    def forward(self, x: Tensor) -> Tensor:
        q = self.queries.expand(x.shape[0], -1, -1) if self.grown else self.queries
        return self.out((self.query(q) @ self.key(x).transpose(1, 2)).softmax(-1) @ self.key(x))


@case("queries made inside the model, six for three rays", "do not grow with the batch")
def _() -> Any:
    return Queries(randn(6, 6), False), (randn(2, 7, 5),)


@case("queries that are all zero", "do not grow with the batch")
def _() -> Any:
    return Queries(torch.zeros(6, 6, dtype=torch.float64), False), (randn(2, 7, 5),)


@case("queries that are expanded over the batch")
def _() -> Any:
    return Queries(randn(6, 6), True), (randn(2, 7, 5),)


@case("a table of the model's through an adapted layer", "do not grow with the batch")
def _() -> Any:
    model = Net(lambda m, x: m.a(x) @ m.b(m.table.weight).T, table=nn.Embedding(12, 5), **linears(a=(5, 4), b=(5, 4)))
    return model, (randn(4, 5),)


class Experts(nn.Module):
    """Each row goes to one expert: gathered by hand, or, ``declared``, with its ray."""

    def __init__(self, declared: bool, make: Callable[[], nn.Module], tokens: bool = False) -> None:
        super().__init__()
        self.router = nn.Linear(5, 3)
        self.experts = nn.ModuleList(make() for _ in range(3))
        self.declared, self.tokens = declared, tokens

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, 1) if self.tokens else x
        chosen, out = self.router(rows).argmax(1), rows.new_zeros(len(rows), 3)
        ray = palora.rays_of(self, rows)
        for i, expert in enumerate(self.experts):
            own = (chosen == i).nonzero().flatten()
            if self.declared:
                with palora.rows(expert, ray[own]):
                    out = out.index_copy(0, own, expert(rows[own]))
            elif len(own):
                out[own] = expert(rows[own])
        return out.view(*x.shape[:-1], 3)


@case("experts see gathered rows", "chosen by their values|runs more often")
def _() -> Any:
    return Experts(False, lambda: nn.Linear(5, 3)), (randn(6, 5),)


@case("experts see gathered tokens", "chosen by their values|runs more often")
def _() -> Any:
    return Experts(False, lambda: nn.Linear(5, 3), tokens=True), (randn(2, 9, 5),)


@case("experts see gathered rows, declared")
def _() -> Any:
    return Experts(True, lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))), (randn(6, 5),)


@case("experts see gathered tokens, declared")
def _() -> Any:
    return Experts(True, lambda: nn.Linear(5, 3), tokens=True), (randn(2, 9, 5),)


@case("all experts on all rows, weighted")
def _() -> Any:
    def call(m: Any, x: Tensor) -> Tensor:
        gates = m.router(x).softmax(-1)
        return (torch.stack([m.e0(x), m.e1(x)], dim=-1) * gates.unsqueeze(-2)).sum(-1)

    return Net(call, **linears(router=(5, 2), e0=(5, 3), e1=(5, 3))), (randn(6, 5),)


@case("experts choose their rows: the best four over the batch", "mixes the rows|chosen|another order")
def _() -> Any:
    def call(m: Any, x: Tensor) -> Tensor:
        best = m.router(x)[:, 0].topk(len(x) // 2).indices
        out = x.new_zeros(len(x), 3)
        return out.index_copy(0, best, m.expert(x[best]))

    return Net(call, **linears(router=(5, 1), expert=(5, 3))), (randn(8, 5),)


@case("padding is cut out and put back", "chosen by their values")
def _() -> Any:
    def call(m: Any, x: Tensor, mask: Tensor) -> Tensor:
        out = x.new_zeros(*mask.shape, 3)
        out[mask] = m.b(torch.tanh(m.a(x[mask])))
        return out

    mask = torch.arange(6)[None] < torch.tensor([6, 2, 4, 6])[:, None]
    return Net(call, **linears(a=(5, 6), b=(6, 3))), (randn(4, 6, 5), mask)


@case("padding is cut out of full rows", "chosen by their values")
def _() -> Any:
    def call(m: Any, x: Tensor, mask: Tensor) -> Tensor:
        return m.b(torch.tanh(m.a(x[mask]))).view(*mask.shape, -1)

    return Net(call, **linears(a=(5, 6), b=(6, 3))), (randn(4, 6, 5), torch.ones(4, 6, dtype=torch.bool))


@case("packed sequences", "another order|token by token|chosen by their values|mixes")
def _() -> Any:
    def call(m: Any, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        packed = packed._replace(data=m.a(packed.data))
        y, _ = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])
        return m.b(y)

    return Net(call, **linears(a=(5, 6), b=(6, 3))), (randn(4, 6, 5), torch.tensor([6, 3, 6, 3]))


@case("rows in the order of their lengths, and back", "another order|mixes")
def _() -> Any:
    def call(m: Any, x: Tensor, lengths: Tensor) -> Tensor:
        order = lengths.argsort(stable=True)
        return m.b(torch.tanh(m.a(x[order]))[order.argsort()])

    return Net(call, **linears(a=(5, 6), b=(6, 3))), (randn(4, 5), torch.tensor([4, 1, 3, 2]))


# The batch sees itself.

for _name, _call in {
    "the batch's mean is taken off": lambda m, x: m.b(m.a(x) - m.a(x).mean(0)),
    "softmax over the batch": lambda m, x: m.b(m.a(x).softmax(0)),
    "softmax over the batch, at the end": lambda m, x: m.b(torch.tanh(m.a(x))).softmax(0),
    "attention over the batch": lambda m, x: m.b((m.a(x) @ m.a(x).T).softmax(-1) @ m.a(x)),
    "functional batch normalisation": lambda m, x: m.b(F.batch_norm(m.a(x), None, None, training=True)),
    "rows take their neighbours' place": lambda m, x: m.b(m.a(x).roll(1, 0)),
    "the batch is reversed": lambda m, x: m.b(m.a(x).flip(0)),
    "similarity within the batch, as the output": lambda m, x: m.b(m.a(x)) @ m.b(m.a(x)).T,
    "the largest row's norm scales all": lambda m, x: m.b(m.a(x) / m.a(x).norm(dim=1).max()),
}.items():

    def _build(call: Any = _call) -> Any:
        return Net(call, **linears(a=(5, 6), b=(6, 3))), (randn(4, 5),)

    case(_name, "mixes|another order|does not see")(_build)


@case("a graph's edges name rows of one batch", "mixes|another order|does not see|run on the rows")
def _() -> Any:
    def call(m: Any, x: Tensor, edges: Tensor) -> Tensor:
        h = m.a(x)
        return m.b(h + torch.zeros_like(h).index_add(0, edges[1], h[edges[0]]))

    return Net(call, **linears(a=(5, 6), b=(6, 3))), (randn(6, 5), torch.randint(6, (2, 10)))


@case("a batch of dense graphs")
def _() -> Any:
    return Net(lambda m, x, adj: m.b(adj @ m.a(x)), **linears(a=(5, 6), b=(6, 3))), (randn(4, 6, 5), randn(4, 6, 6))


@case("flattening with a negative dimension, batch and all")
def _() -> Any:
    return nn.Sequential(nn.Linear(5, 3), nn.Flatten(-3)), (randn(4, 2, 5),)


@case("flattening with a negative dimension, within a sample")
def _() -> Any:
    return nn.Sequential(nn.Linear(5, 3), nn.Flatten(-2), nn.Linear(6, 2)), (randn(4, 2, 5),)


@case("a gated unit over the batch", "mixes|does not see")
def _() -> Any:
    return nn.Sequential(nn.Linear(5, 6), nn.GLU(dim=0)), (randn(4, 5),)


@case("a loop that ends when the batch has converged", "decides by the values of its batch")
def _() -> Any:
    def call(m: Any, x: Tensor) -> Tensor:
        for _ in range(6):
            step = torch.tanh(m.a(x))
            x = x + step / 2
            if step.abs().mean() < 0.3:
                break
        return m.b(x)

    return Net(call, **linears(a=(5, 5), b=(5, 3))), (randn(4, 5),)


@case("a look for numbers that are none")
def _() -> Any:
    def call(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        if torch.isnan(h).any() or not torch.isfinite(h).all() or torch.isinf(h).any():
            raise ValueError("not a number")
        return m.b(h)

    return Net(call, **linears(a=(5, 5), b=(5, 3))), (randn(4, 5),)


@case("row by row in a loop of Python's", "row by row")
def _() -> Any:
    call = lambda m, x: torch.cat([m.b(torch.tanh(m.a(row[None]))) for row in x])  # noqa: E731
    return Net(call, **linears(a=(5, 6), b=(6, 3))), (randn(6, 5),)


@case("the batch in chunks of two", "row by row")
def _() -> Any:
    call = lambda m, x: torch.cat([m.b(torch.tanh(m.a(part))) for part in x.split(2)])  # noqa: E731
    return Net(call, **linears(a=(5, 6), b=(6, 3))), (randn(6, 5),)


@case("the batch in three chunks", "mixes|does not see")
def _() -> Any:
    call = lambda m, x: torch.cat([m.b(torch.tanh(m.a(part))) for part in x.chunk(3)])  # noqa: E731
    return Net(call, **linears(a=(5, 6), b=(6, 3))), (randn(6, 5),)


@case("every other row", "multiple of")
def _() -> Any:
    return Net(lambda m, x: m.b(m.a(x)[::2]), **linears(a=(5, 6), b=(6, 3))), (randn(6, 5),)


@case("the batch's mean is the output", "output at several rays")
def _() -> Any:
    return Net(lambda m, x: m.a(x).mean(0), a=nn.Linear(5, 6)), (randn(4, 5),)


@case("the nearest entry of a codebook")
def _() -> Any:
    def call(m: Any, x: Tensor) -> Tensor:
        return m.b(m.book(torch.cdist(m.a(x), m.book.weight).argmin(1)))

    return Net(call, book=nn.Embedding(8, 6), **linears(a=(5, 6), b=(6, 3))), (randn(6, 5),)


@case("the state of a recurrent layer, batch second, through a layer", "batch in dimension 1")
def _() -> Any:
    def call(m: Any, x: Tensor) -> Tensor:
        return m.b(m.rnn(m.a(x))[1]).sum(0)

    return Net(call, rnn=nn.GRU(6, 6, 3, batch_first=True), **linears(a=(5, 6), b=(6, 3))), (randn(4, 4, 5),)


@case("the state of a recurrent layer, batch second, declared", rows={"b": 1})
def _() -> Any:
    def call(m: Any, x: Tensor) -> Tensor:
        return m.b(m.rnn(m.a(x))[1]).sum(0)

    return Net(call, rnn=nn.GRU(6, 6, 3, batch_first=True), **linears(a=(5, 6), b=(6, 3))), (randn(4, 4, 5),)


# Arguments.


@case("a table as long as the batch")
def _() -> Any:
    return Net(lambda m, x, table: m.a(x) @ table.T, a=nn.Linear(5, 6)), (randn(4, 5), randn(4, 6))


@case("a table as long as the batch, kept", keep="1")
def _() -> Any:
    return Net(lambda m, x, table: m.a(x) @ table.T, a=nn.Linear(5, 6)), (randn(4, 5), randn(4, 6))


@case("a scale a row")
def _() -> Any:
    return Net(lambda m, x, s: m.b(m.a(x) * s), **linears(a=(5, 6), b=(6, 3))), (randn(4, 5), randn(4, 1))


@case("a table, a scale a row and a mask in a dict")
def _() -> Any:
    def call(m: Any, batch: dict[str, Tensor], table: Tensor) -> Tensor:
        return m.b(m.a(batch["x"]) * batch["scale"]) @ table.T

    batch = {"x": randn(4, 5), "scale": randn(4, 1)}
    return Net(call, **linears(a=(5, 6), b=(6, 3))), (batch, randn(4, 3))


@case("a square mask over tokens, as long as the batch")
def _() -> Any:
    def call(m: Any, x: Tensor, bias: Tensor) -> Tensor:
        return m.b((m.a(x) @ m.a(x).transpose(1, 2) + bias).softmax(-1) @ x)

    return Net(call, **linears(a=(6, 6), b=(6, 3))), (randn(4, 4, 6), randn(4, 4))


class Masked(nn.Module):
    """Attention with a mask in one of its forms."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 6), nn.Linear(6, 3)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, padding: Tensor | None = None) -> Tensor:
        h = self.enter(x)
        y, _ = self.attention(h, h, h, attn_mask=attn_mask, key_padding_mask=padding, need_weights=False)
        return self.leave(h + y)


for _n, _length in ((4, 4), (2, 4), (4, 6)):
    _named = f"a batch of {_n}, {_length} tokens"
    case(f"a mask over tokens, {_named}", exclude="attention*")(
        lambda n=_n, k=_length: (Masked(), (randn(n, k, 5), torch.ones(k, k).triu(1).bool()))
    )
    case(f"a mask for every head of every sample, {_named}", exclude="attention*")(
        lambda n=_n, k=_length: (Masked(), (randn(n, k, 5), randn(2 * n, k, k)))
    )
    case(f"a mask of padding, {_named}", exclude="attention*")(
        lambda n=_n, k=_length: (
            Masked(),
            (randn(n, k, 5), None, torch.arange(k)[None] > torch.arange(1, n + 1)[:, None] % k),
        )
    )


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module], batch_first: bool = True, layers: int = 2) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 6), nn.Linear(6, 3)
        self.rnn = kind(6, 6, num_layers=layers, batch_first=batch_first)
        self.batch_first = batch_first

    def forward(self, x: Tensor, state: Any = None) -> Any:
        h = self.enter(x)
        if self.batch_first:
            return self.leave(self.rnn(h, state)[0])
        return self.leave(self.rnn(h.transpose(0, 1), state)[0].transpose(0, 1))


for _n in (2, 4):
    for _kind in (nn.GRU, nn.RNN):
        case(f"{_kind.__name__} with its state, a batch of {_n}")(
            lambda kind=_kind, n=_n: (Recurrent(kind), (randn(n, 7, 5), randn(2, n, 6)))
        )
    case(f"LSTM with its two states, a batch of {_n}")(
        lambda n=_n: (Recurrent(nn.LSTM), (randn(n, 7, 5), (randn(2, n, 6), randn(2, n, 6))))
    )
case("LSTM with its two states, declared", expand={"state": 1})(
    lambda: (Recurrent(nn.LSTM), (randn(2, 7, 5), (randn(2, 2, 6), randn(2, 2, 6))))
)
case("a recurrent layer that is not batch_first, inside", "batch_first=True")(
    lambda: (Recurrent(nn.GRU, batch_first=False), (randn(4, 7, 5),))
)
case("a recurrent layer that is not batch_first, inside, declared", rows={"rnn": 1})(
    lambda: (Recurrent(nn.GRU, batch_first=False), (randn(4, 7, 5),))
)


class SequenceFirstEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 8), nn.Linear(8, 3)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.encoder(self.enter(x)))


case(
    "a transformer that is sequence-first from its input to its output, declared",
    rows={"*": 1},
    expand={"x": 1},
    exclude="*self_attn*",
)(lambda: (SequenceFirstEncoder(), (randn(7, 4, 5),)))


# Weights that are read, layers that are left out.


class Window(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = F.linear(x, self.qkv.weight, self.qkv.bias).chunk(3, dim=-1)
        return self.proj((q @ k.transpose(-2, -1)).softmax(-1) @ v)


case("a parent computes with the weight of its layer", "weight of 'qkv' was read")(
    lambda: (Window(), (randn(4, 5, 8),))
)
case("a parent computes with the weight, excluded", exclude="qkv")(lambda: (Window(), (randn(4, 5, 8),)))
case("a decoder that is the encoder's weight transposed", "weight of 'a' was read")(
    lambda: (Net(lambda m, x: F.linear(torch.tanh(m.a(x)), m.a.weight.T), a=nn.Linear(5, 6)), (randn(4, 5),))
)
case("a weight from the list of parameters", "weight of 'a' was read")(
    lambda: (Net(lambda m, x: F.linear(x, dict(m.named_parameters())["a.weight"]), a=nn.Linear(5, 6)), (randn(4, 5),))
)
case("a weight from a state_dict", "weight of 'a' was read")(
    lambda: (Net(lambda m, x: F.linear(x, m.a.state_dict()["weight"]), a=nn.Linear(5, 6)), (randn(4, 5),))
)
case("a convolution's weight is standardised by its parent", "weight of 'a' was read")(
    lambda: (Net(lambda m, x: F.conv2d(x, m.a.weight - m.a.weight.mean()), a=nn.Conv2d(2, 3, 3)), (randn(4, 2, 6, 6),))
)
case("only the dtype of a weight is asked for")(
    lambda: (
        Net(lambda m, x: m.b(m.a(x.to(m.a.weight.dtype)).to(m.b.weight)), **linears(a=(5, 6), b=(6, 3))),
        (randn(4, 5),),
    )
)

# Changes in place.

case("an in-place ReLU first")(lambda: (nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 3)), (randn(4, 5),)))
case("a view of the input is changed in place")(
    lambda: (Net(lambda m, x: (x.view(-1).mul_(2), m.a(x))[1], a=nn.Linear(5, 3)), (randn(4, 5),))
)
case("a column of the input is overwritten")(
    lambda: (Net(lambda m, x: (x[:, 0].zero_(), m.a(x))[1], a=nn.Linear(5, 3)), (randn(4, 5),))
)


def make_adapted(one: Case) -> nn.Module:
    """Adapted, in float64, with adapters that say something."""
    torch.manual_seed(0)
    model = palora.adapt(one.make().double(), 2, 2, **one.options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name:
                parameter.normal_(std=0.3)
    return model
