"""Public architectures in small, at random weights: what becomes of each at many rays. Not a test itself.

Each follows the public description of its layout (where tokens, windows, states, tables and experts lie), a few
units wide. `python docs/architectures.py` runs them all and writes the table of `docs/architectures.md`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import palora


class Exhibit(NamedTuple):
    """A model, its arguments for a batch of n, options of `adapt`, and the refusal expected, if any."""

    make: Callable[[], nn.Module]
    args: Callable[[int], tuple[Any, ...]]
    refusal: str | None = None
    options: dict[str, Any] | None = None


def image(n: int, channels: int = 3, size: int = 16) -> Tensor:
    return torch.randn(n, channels, size, size, dtype=torch.float64)


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def ids(n: int, length: int = 7) -> Tensor:
    return torch.randint(1, 20, (n, length))


def mask_of(n: int, length: int = 7) -> Tensor:
    return torch.arange(length)[None] < (torch.arange(n) % length + 1)[:, None]


class Residual(nn.Module):
    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.body(x)


def conv_bn(i: int, o: int, k: int = 3, stride: int = 1, groups: int = 1, act: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(i, o, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(o)]
    return nn.Sequential(*layers, *([nn.ReLU()] if act else []))


def pooled(*trunk: nn.Module, width: int, classes: int = 4) -> nn.Sequential:
    return nn.Sequential(*trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def resnet() -> nn.Module:
    def block(i: int, o: int, stride: int) -> nn.Module:
        body = nn.Sequential(conv_bn(i, o, 3, stride), conv_bn(o, o, act=False))
        return nn.Sequential(Residual(body, conv_bn(i, o, 1, stride, act=False)), nn.ReLU())

    return pooled(conv_bn(3, 8), block(8, 8, 1), block(8, 12, 2), width=12)


def vgg() -> nn.Module:
    return pooled(conv_bn(3, 8), nn.MaxPool2d(2), conv_bn(8, 8), conv_bn(8, 8), nn.MaxPool2d(2), width=8)


def mobilenet() -> nn.Module:
    def block(c: int) -> nn.Module:
        return Residual(
            nn.Sequential(conv_bn(c, 3 * c, 1), conv_bn(3 * c, 3 * c, groups=3 * c), conv_bn(3 * c, c, 1, act=False))
        )

    return pooled(conv_bn(3, 6, stride=2), block(6), block(6), width=6)


class SqueezeExcite(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(c, 2, 1), nn.Conv2d(2, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.expand(F.silu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()


def efficientnet() -> nn.Module:
    block = nn.Sequential(
        conv_bn(6, 12, 1), conv_bn(12, 12, 5, groups=12), SqueezeExcite(12), conv_bn(12, 6, 1, act=False)
    )
    return pooled(conv_bn(3, 6, stride=2), Residual(block), width=6)


class Dense(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(c + 4 * i), nn.ReLU(), nn.Conv2d(c + 4 * i, 4, 3, padding=1)) for i in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


def densenet() -> nn.Module:
    return pooled(conv_bn(3, 4), Dense(4), nn.BatchNorm2d(16), width=16)


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.three, self.five = conv_bn(6, 4, 1), conv_bn(6, 4, 3), conv_bn(6, 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x)], 1)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = conv_bn(3, 6), conv_bn(6, 8)
        self.up = nn.ConvTranspose2d(8, 6, 2, 2)
        self.out, self.head = conv_bn(12, 6), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        return self.head(self.out(torch.cat([a, self.up(b)], 1)))


class Attention(nn.Module):
    """Attention to itself or a context; grouped key and value heads, a rotation of positions, a causal mask."""

    def __init__(
        self, dim: int, heads: int = 2, kv: int | None = None, causal: bool = False, rotary: bool = False
    ) -> None:
        super().__init__()
        self.heads, self.kv, self.size = heads, kv or heads, dim // heads
        self.q, self.k = nn.Linear(dim, dim), nn.Linear(dim, self.kv * self.size)
        self.v, self.out = nn.Linear(dim, self.kv * self.size), nn.Linear(dim, dim)
        self.causal, self.rotary = causal, rotary

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = (f(context).unflatten(-1, (self.kv, -1)).transpose(1, 2) for f in (self.k, self.v))
        if self.rotary:
            q, k = _rotated(q), _rotated(k)
        k, v = (t.repeat_interleave(self.heads // self.kv, dim=1) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=self.causal)
        return self.out(y.transpose(1, 2).flatten(2))


def _rotated(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] / 10 ** torch.arange(half, dtype=x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)


class Block(nn.Module):
    def __init__(self, dim: int, norm: type[nn.Module] = nn.LayerNorm, cross: bool = False, **options: Any) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(dim), norm(dim)
        self.attention = Attention(dim, **options)
        self.cross = Attention(dim) if cross else None
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor, mask: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), mask=mask)
        if self.cross is not None:
            x = x + self.cross(x, context)
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.cls, self.pos = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 17, 8))
        self.blocks = nn.Sequential(Block(8), Block(8))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
        return self.head(self.blocks(x)[:, 0])


class SwinBlock(nn.Module):
    """Windows of 4 x 4 become rows, shifted by two; their relative positions have a table of biases."""

    def __init__(self, dim: int, shift: int) -> None:
        super().__init__()
        self.qkv, self.proj, self.norm = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim), nn.LayerNorm(dim)
        self.bias = nn.Parameter(torch.randn(2, 16, 16))
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        y = self.norm(x).roll((-self.shift, -self.shift), (1, 2))
        y = y.view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        q, k, v = self.qkv(y).view(-1, 16, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        y = ((q @ k.transpose(-2, -1)) / math.sqrt(c // 2) + self.bias).softmax(-1) @ v
        y = self.proj(y.transpose(1, 2).reshape(-1, 16, c))
        y = y.view(n, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        return x + y.roll((self.shift, self.shift), (1, 2))


class Swin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.merge = nn.Conv2d(3, 8, 2, 2), nn.Linear(32, 8)
        self.blocks, self.head = nn.Sequential(SwinBlock(8, 0), SwinBlock(8, 2)), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.patch(x).permute(0, 2, 3, 1))
        x = torch.cat([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1)
        return self.head(self.merge(x).mean((1, 2)))


class ConvNeXtBlock(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(c, c, 7, padding=3, groups=c), nn.LayerNorm(c)
        self.up, self.down, self.scale = nn.Linear(c, 4 * c), nn.Linear(4 * c, c), nn.Parameter(torch.full((c,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)


class Mixer(nn.Module):
    """Layers over channels, and layers over the positions of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.over = nn.Conv2d(3, 8, 4, 4), nn.Linear(16, 16)
        self.channels, self.head = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2)
        x = (x + F.gelu(self.over(x))).transpose(1, 2)
        return self.head((x + F.gelu(self.channels(x))).mean(1))


class Denoiser(nn.Module):
    """A diffusion model's U-Net: time steps shift the channels, attention over positions in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.down, self.out = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, 2, 1),
            nn.Conv2d(16, 3, 3, padding=1),
        )
        self.time = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 8))
        self.norm, self.attention = nn.GroupNorm(4, 8), Attention(8)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angle = t[:, None].to(x.dtype) / 10 ** torch.arange(4, dtype=x.dtype)
        shift = self.time(torch.cat([angle.sin(), angle.cos()], 1))
        a = self.enter(x)
        b = F.silu(self.norm(self.down(a)) + shift[:, :, None, None])
        b = b + self.attention(b.flatten(2).transpose(1, 2)).transpose(1, 2).view_as(b)
        return self.out(torch.cat([a, F.interpolate(b, scale_factor=2)], 1))


class Tagger(nn.Module):
    def __init__(self, kind: type[nn.Module] = nn.LSTM) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(20, 6), kind(6, 5, bidirectional=kind is nn.LSTM, batch_first=True)
        self.tags = nn.Linear(10 if kind is nn.LSTM else 5, 4)

    def forward(self, tokens: Tensor, state: Any = None) -> Tensor:
        return self.tags(self.rnn(self.embed(tokens), state)[0])


class PackedTagger(Tagger):
    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]
        pack = nn.utils.rnn.pack_padded_sequence(self.embed(tokens), lengths, batch_first=True, enforce_sorted=False)
        return self.tags(nn.utils.rnn.pad_packed_sequence(self.rnn(pack)[0], batch_first=True, total_length=7)[0])


class GPT2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(20, 8), nn.Embedding(7, 8)
        self.blocks = nn.ModuleList(Block(8, causal=True) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 20, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class LlamaBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(8), nn.RMSNorm(8)
        self.attention = Attention(8, heads=4, kv=2, causal=True, rotary=True)
        self.gate, self.up, self.down = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def llama() -> nn.Module:
    return nn.Sequential(nn.Embedding(20, 8), LlamaBlock(), LlamaBlock(), nn.RMSNorm(8), nn.Linear(8, 20, bias=False))


class BERT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.kinds, self.places = nn.Embedding(20, 8), nn.Embedding(2, 8), nn.Embedding(7, 8)
        self.norm, self.blocks = nn.LayerNorm(8), nn.ModuleList(Block(8) for _ in range(2))
        self.pool, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, tokens: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        x = self.words(tokens) + self.kinds(token_type_ids) + self.places(torch.arange(tokens.shape[1])[None])
        x = self.norm(x)
        mask = torch.zeros(attention_mask.shape, dtype=x.dtype).masked_fill(~attention_mask, -1e9)[:, None, None]
        for block in self.blocks:
            x = block(x, mask)
        return self.head(torch.tanh(self.pool(x[:, 0])))


class T5(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.relative = nn.Embedding(15, 2)
        self.encoder, self.decoder = Block(8, nn.RMSNorm), Block(8, nn.RMSNorm, cross=True)
        self.head = nn.Linear(8, 20, bias=False)

    def bias(self, length: int) -> Tensor:
        place = torch.arange(length)
        return self.relative(place[:, None] - place[None] + 7).permute(2, 0, 1)[None]

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory = self.encoder(self.embed(source), self.bias(source.shape[1]))
        length = target.shape[1]
        causal = self.bias(length) + torch.full((length, length), -1e9, dtype=memory.dtype).triu(1)
        return self.head(self.decoder(self.embed(target), causal, memory))


class Mixtral(nn.Module):
    """Tokens go to the best two of four experts; ``declared``: with their rays."""

    def __init__(self, declared: bool) -> None:
        super().__init__()
        self.embed, self.router, self.head = nn.Embedding(20, 8), nn.Linear(8, 4, bias=False), nn.Linear(8, 5)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 6), nn.SiLU(), nn.Linear(6, 8)) for _ in range(4))
        self.declared = declared

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        flat = x.flatten(0, 1)
        weights, chosen = self.router(flat).softmax(-1).topk(2, dim=-1)
        out, ray = torch.zeros_like(flat), palora.rays_of(self, flat)
        for i, expert in enumerate(self.experts):
            row, place = torch.where(chosen == i)
            if self.declared:
                with palora.rows(expert, ray[row]):
                    y = expert(flat[row])
            else:
                y = expert(flat[row])
            out = out.index_add(0, row, y * weights[row, place, None])
        return self.head(out.view_as(x))


class SoftMoE(nn.Module):
    """Every expert on slots that are mixtures of each sample's tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.slots, self.head = nn.Parameter(torch.randn(8, 4)), nn.Linear(8, 5)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        logits = x @ self.slots
        slots = logits.softmax(1).transpose(1, 2) @ x
        y = torch.cat([expert(part) for expert, part in zip(self.experts, slots.chunk(2, 1), strict=True)], 1)
        return self.head(logits.softmax(-1) @ y)


class GCN(nn.Module):
    """Nodes of one graph are the batch; edges name them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        for layer in (self.a, self.b):
            h = layer(x)
            x = torch.relu(h + torch.zeros_like(h).index_add(0, edges[1], h[edges[0]]))
        return x


class DenseGAT(nn.Module):
    """A batch of graphs with their adjacency matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.score, self.out = nn.Linear(5, 6), nn.Linear(6, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        h = self.value(x)
        scores = self.score(h).transpose(1, 2).masked_fill(adjacency < 0, -1e9)
        return self.out(scores.softmax(-1).expand(-1, x.shape[1], -1) @ h + h).mean(1)


class DLRM(nn.Module):
    def __init__(self, bags: bool) -> None:
        super().__init__()
        kind = nn.EmbeddingBag if bags else nn.Embedding
        self.tables = nn.ModuleList(kind(20, 6) for _ in range(3))
        self.bottom, self.top = nn.Sequential(nn.Linear(5, 6), nn.ReLU()), nn.Linear(6 + 6, 1)

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        x = self.bottom(dense)
        vectors = torch.stack([x, *(table(sparse[:, i]) for i, table in enumerate(self.tables))], 1)
        crossed = vectors @ vectors.transpose(1, 2)
        i, j = torch.triu_indices(4, 4, 1)
        return self.top(torch.cat([x, crossed[:, i, j]], 1))


class TorchEncoder(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.enter(x)))


class TwoTowers(nn.Module):
    def __init__(self, logits: bool) -> None:
        super().__init__()
        self.left, self.right, self.logits = nn.Linear(5, 6), nn.Linear(4, 6), logits

    def forward(self, x: Tensor, y: Tensor) -> Any:
        a, b = F.normalize(self.left(x), dim=-1), F.normalize(self.right(y), dim=-1)
        return a @ b.T if self.logits else torch.cat([a, b], -1)


class Siamese(nn.Module):
    """Two views of each image in one batch, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = (
            nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            nn.Linear(6, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.head(self.body(torch.cat([x, x.flip(3)]))).chunk(2)
        return one * two


class Perceiver(nn.Module):
    """Latents that the model makes, a copy a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.latents, self.enter = nn.Parameter(torch.randn(3, 8)), nn.Linear(5, 8)
        self.cross, self.block, self.head = Attention(8), Block(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.cross(self.latents.expand(len(x), -1, -1), self.enter(x))
        return self.head(self.block(z).mean(1))


class DETR(nn.Module):
    """Queries that the model makes, projected once for all samples."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.memory = nn.Embedding(6, 8), nn.Linear(5, 8)
        self.project, self.boxes = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        memory = self.memory(x)
        q = self.project(self.queries.weight)
        return self.boxes((q @ memory.transpose(1, 2)).softmax(-1) @ memory)


class PointNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.points, self.norm, self.head = nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.points(x).transpose(1, 2))).amax(2))


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(6, 4), nn.Linear(2, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, spread = self.encode(x).chunk(2, -1)
        z = mean + spread.exp() * torch.randn_like(mean) if self.training else mean
        return self.decode(z), mean, spread


class VQVAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.book, self.decode = nn.Conv2d(3, 4, 4, 4), nn.Embedding(8, 4), nn.Linear(4, 48)

    def forward(self, x: Tensor) -> Tensor:
        z = self.encode(x).flatten(2).transpose(1, 2)
        found = self.book(torch.cdist(z, self.book.weight.expand(len(z), -1, -1)).argmin(-1))
        return self.decode(z + (found - z).detach())


class Video(nn.Module):
    """Frames become rows, sample by sample, then a recurrent layer over time."""

    def __init__(self) -> None:
        super().__init__()
        self.frame, self.time, self.head = (
            pooled(conv_bn(3, 6), width=6, classes=5),
            nn.GRU(5, 6, batch_first=True),
            nn.Linear(6, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.time(self.frame(x.flatten(0, 1)).unflatten(0, x.shape[:2]))[0][:, -1])


class NeRF(nn.Module):
    """Points along rays of light become rows."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.colour = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 8)), nn.Linear(8, 4)

    def forward(self, origins: Tensor, directions: Tensor) -> Tensor:
        at = torch.linspace(0, 1, 5, dtype=origins.dtype)
        points = (origins[:, None] + at[:, None] * directions[:, None]).flatten(0, 1)
        y = self.colour(self.body(torch.cat([points, points.sin(), points.cos(), (2 * points).sin()], -1)))
        density, colour = y.unflatten(0, (-1, 5)).split([1, 3], -1)
        return (density.softmax(1) * colour.sigmoid()).sum(1)


class WindowedByParent(nn.Module):
    """Attention that computes with its layer's weight itself, as some public vision models do."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = F.linear(x, self.qkv.weight, self.qkv.bias).chunk(3, -1)
        return self.proj((q @ k.transpose(1, 2)).softmax(-1) @ v)


class WaveBlock(nn.Module):
    """Dilated convolutions over time (which have no adapters) between fully connected layers."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.dilated, self.out = nn.Linear(4, 6), nn.Conv1d(6, 12, 2, dilation=2), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.dilated(F.pad(self.enter(x).transpose(1, 2), (2, 0))).chunk(2, 1)
        return self.out((a.tanh() * b.sigmoid()).transpose(1, 2))


EXHIBITS: dict[str, Exhibit] = {
    "LeNet": Exhibit(palora.models.LeNet, lambda n: (image(n, 1, 28),)),
    "MLP": Exhibit(lambda: palora.models.MLP(9, (8, 8), (1, 2)), lambda n: (rows(n, 9),)),
    "VGG with batch normalisation": Exhibit(vgg, lambda n: (image(n),)),
    "ResNet": Exhibit(resnet, lambda n: (image(n),)),
    "MobileNetV2": Exhibit(mobilenet, lambda n: (image(n),)),
    "EfficientNet": Exhibit(efficientnet, lambda n: (image(n),)),
    "DenseNet": Exhibit(densenet, lambda n: (image(n),)),
    "Inception": Exhibit(lambda: pooled(conv_bn(3, 6), Inception(), width=12), lambda n: (image(n),)),
    "ConvNeXt": Exhibit(
        lambda: pooled(nn.Conv2d(3, 6, 4, 4), ConvNeXtBlock(6), ConvNeXtBlock(6), width=6), lambda n: (image(n),)
    ),
    "U-Net": Exhibit(UNet, lambda n: (image(n),)),
    "diffusion U-Net": Exhibit(Denoiser, lambda n: (image(n), torch.randint(100, (n,)))),
    "ViT": Exhibit(ViT, lambda n: (image(n),)),
    "Swin": Exhibit(Swin, lambda n: (image(n),)),
    "window attention that computes with its layer's weight": Exhibit(
        WindowedByParent, lambda n: (rows(n, 5, 8),), "weight of 'qkv' was read"
    ),
    "MLP-Mixer": Exhibit(Mixer, lambda n: (image(n),)),
    "Perceiver": Exhibit(Perceiver, lambda n: (rows(n, 7, 5),)),
    "DETR's queries, projected once": Exhibit(DETR, lambda n: (rows(n, 7, 5),), "do not grow with the batch"),
    "DETR's queries, their layer excluded": Exhibit(DETR, lambda n: (rows(n, 7, 5),), options={"exclude": "project"}),
    "LSTM tagger": Exhibit(Tagger, lambda n: (ids(n),)),
    "LSTM tagger with packed sequences": Exhibit(PackedTagger, lambda n: (ids(n), torch.arange(n) % 5 + 3)),
    "GRU with its state": Exhibit(lambda: Tagger(nn.GRU), lambda n: (ids(n), rows(1, n, 5))),
    "GPT-2 (linear layers, untied)": Exhibit(GPT2, lambda n: (ids(n),)),
    "Llama": Exhibit(llama, lambda n: (ids(n),)),
    "BERT": Exhibit(BERT, lambda n: (ids(n), mask_of(n), torch.randint(2, (n, 7)))),
    "T5": Exhibit(T5, lambda n: (ids(n), ids(n, 5))),
    "Mixtral": Exhibit(lambda: Mixtral(False), lambda n: (ids(n),), "chosen by their values"),
    "Mixtral, rows given to rays": Exhibit(lambda: Mixtral(True), lambda n: (ids(n),)),
    "soft mixture of experts": Exhibit(SoftMoE, lambda n: (rows(n, 7, 8),)),
    "torch.nn.TransformerEncoder": Exhibit(
        lambda: TorchEncoder(True), lambda n: (rows(n, 7, 5),), options={"exclude": "*self_attn*"}
    ),
    "torch.nn.TransformerEncoder, attention adapted": Exhibit(
        lambda: TorchEncoder(True), lambda n: (rows(n, 7, 5),), "reads its projections' weights directly"
    ),
    "torch.nn.TransformerEncoder, sequence first": Exhibit(
        lambda: TorchEncoder(False), lambda n: (rows(7, n, 5),), "batch in dimension 1", {"exclude": "*self_attn*"}
    ),
    "torch.nn.TransformerEncoder, sequence first, declared": Exhibit(
        lambda: TorchEncoder(False),
        lambda n: (rows(7, n, 5),),
        options={"exclude": "*self_attn*", "rows": {"*": 1}, "expand": {"x": 1}},
    ),
    "graph convolution, nodes as the batch": Exhibit(
        GCN, lambda n: (rows(2 * n, 5), torch.randint(2 * n, (2, 4 * n))), "mixes the rows"
    ),
    "graph attention, a batch of dense graphs": Exhibit(DenseGAT, lambda n: (rows(n, 6, 5), rows(n, 6, 6))),
    "DLRM": Exhibit(lambda: DLRM(False), lambda n: (rows(n, 5), torch.randint(20, (n, 3)))),
    "DLRM with embedding bags": Exhibit(
        lambda: DLRM(True), lambda n: (rows(n, 5), torch.randint(20, (n, 3))), "bags are not rows"
    ),
    "two towers, vectors": Exhibit(lambda: TwoTowers(False), lambda n: (rows(n, 5), rows(n, 4))),
    "CLIP's logits within the batch": Exhibit(
        lambda: TwoTowers(True), lambda n: (rows(n, 5), rows(n, 4)), "output at several rays"
    ),
    "two views in one batch": Exhibit(Siamese, lambda n: (image(n),), "view by view"),
    "two views in one batch, declared": Exhibit(Siamese, lambda n: (image(n),), options={"rows": {"*": "inner"}}),
    "PointNet": Exhibit(PointNet, lambda n: (rows(n, 9, 3),)),
    "VAE (evaluation: its mean)": Exhibit(VAE, lambda n: (rows(n, 6),)),
    "VQ-VAE": Exhibit(VQVAE, lambda n: (image(n),)),
    "frames, then a GRU": Exhibit(Video, lambda n: (rows(n, 4, 3, 8, 8),)),
    "NeRF": Exhibit(NeRF, lambda n: (rows(n, 3), rows(n, 3))),
    "WaveNet": Exhibit(WaveBlock, lambda n: (rows(n, 8, 4),)),
}

RAYS = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]], dtype=torch.float64)
REFUSED = (ValueError, TypeError, RuntimeError)


class Result(NamedTuple):
    """The relative difference from the loop over merged models, or a refusal's sentence; and the adapted layers."""

    difference: float
    refusal: str
    layers: int


def tried(name: str, n: int = 4) -> Result:
    """One exhibit at three rays, in evaluation and (but for draws of its own) training mode, in float64."""
    exhibit = EXHIBITS[name]
    torch.manual_seed(0)
    model = exhibit.make().double()
    args = exhibit.args(n)
    try:
        palora.adapt(model, 2, 2, **(exhibit.options or {}))
        layers = palora.layers.adapted_layers(model)
        with torch.no_grad():
            for layer in layers.values():
                layer.lora_A.normal_(std=0.3)
        worst = max(
            _difference(model.train(mode), args) for mode in ((False,) if isinstance(model, VAE) else (False, True))
        )
    except REFUSED as error:
        return Result(math.nan, str(error), 0)
    return Result(worst, "", len(layers))


def _difference(model: nn.Module, args: tuple[Any, ...]) -> float:
    singles = [_tensors(palora.merge(model, ray)(*args)) for ray in RAYS]
    with palora.at(model, RAYS):
        stacked = _tensors(model(*args))
    worst = 0.0
    for y, *alone in zip(stacked, *singles, strict=True):
        expected = torch.cat(alone, dim=0 if y.shape[0] == 3 * alone[0].shape[0] else 1)
        worst = max(worst, ((y - expected).abs().max() / expected.abs().max()).item())
    return worst


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)
