"""Draw the pictures of docs/kernels.md: `python docs/kernels.py [FOLDER]`. Sizes are schematic, not measured."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Rectangle

LINE, PALE, READ, PART, DONE, LAM = "#444444", "#f4f4f4", "#9ecae1", "#fdd49e", "#a1d99b", "#bcbddc"
RAYS = ("#d7e8f4", "#fbe3cf", "#dff0d8")


def panel(axes: Axes, width: float, height: float, title: str) -> None:
    axes.set(xlim=(-0.2, width + 0.2), ylim=(-0.5, height + 0.3), aspect="equal")
    axes.axis("off")
    axes.set_title(title, fontsize=10, loc="left")


def above(axes: Axes) -> int:
    """What is drawn later covers what was drawn before."""
    return 10 + len(axes.get_children())


def box(
    axes: Axes,
    at: tuple[float, float],
    size: tuple[float, float],
    text: str = "",
    fill: str = PALE,
    fontsize: float = 9,
) -> None:
    axes.add_patch(Rectangle(at, *size, facecolor=fill, edgecolor=LINE, linewidth=0.9, zorder=above(axes)))
    if text:
        say(axes, at[0] + size[0] / 2, at[1] + size[1] / 2, text, fontsize)


def say(axes: Axes, x: float, y: float, text: str, fontsize: float = 9, align: str = "center", turn: float = 0) -> None:
    axes.text(x, y, text, ha=align, va="center", fontsize=fontsize, rotation=turn, color="#111111", zorder=above(axes))


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    shape = FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=LINE, linewidth=1.1)
    axes.add_patch(shape).set_zorder(above(axes))


def rule(axes: Axes, x: tuple[float, float], y: tuple[float, float], color: str = LINE) -> None:
    axes.plot(x, y, color=color, linewidth=0.6, zorder=above(axes))


def save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=105, bbox_inches="tight", pad_inches=0.08, facecolor="white")
    plt.close(figure)


def linear(path: Path) -> None:
    """linear_product: stacked rays, and a shared input."""
    figure, (stacked, shared) = plt.subplots(1, 2, figsize=(12, 5.2))
    panel(stacked, 13.6, 10.6, "linear_product, stacked rays: one program, one tile of Y")
    _operands(stacked)
    for m, color in enumerate(RAYS):
        box(stacked, (0.9, 4 - 2 * m), (2.8, 2), fill=color)
        box(stacked, (4.6, 4 - 2 * m), (5, 2), fill=color)
        box(stacked, (12.2, 4 - 2 * m), (1, 2), fill=color)
        say(stacked, 0.4, 5 - 2 * m, f"ray {m + 1}", turn=90)
    box(stacked, (0.9, 3.2), (2.8, 1.4), fill=READ)
    box(stacked, (1.7, 3.2), (0.9, 1.4), "BK", fill=PART)
    box(stacked, (6, 3.2), (1.5, 1.4), "acc", fill=DONE)
    box(stacked, (12.2, 3.2), (1, 1.4), "S", fill=DONE)
    arrow(stacked, (12.2, 3.75), (7.5, 3.75))
    say(stacked, 10.9, 4.15, "∘ Λ, · Aᵀ")
    say(stacked, 10.9, 3.35, "λ row by row", 8)
    say(stacked, 2.3, -0.25, "X  (M·n, K)")
    say(stacked, 7.1, -0.25, "Y  (M·n, O)")
    say(stacked, 12.7, -0.25, "S  (M·n, R)")
    say(stacked, 4.15, 3.9, "BM", 8)

    panel(shared, 13.6, 10.6, "linear_product, shared input: M results from one acc and one S")
    _operands(shared)
    box(shared, (0.9, 2), (2.8, 4), fill=PALE)
    box(shared, (0.9, 3.2), (2.8, 1.4), fill=READ)
    box(shared, (1.7, 3.2), (0.9, 1.4), "BK", fill=PART)
    for m in (2, 1, 0):
        box(shared, (4.6 + 0.35 * m, 2 - 0.45 * m), (5, 4), fill=RAYS[m])
        box(shared, (6 + 0.35 * m, 3.2 - 0.45 * m), (1.5, 1.4), fill=DONE)
    say(shared, 6.75, 3.9, "acc", 9)
    box(shared, (12.7, 2), (1, 4), fill=PALE)
    box(shared, (12.7, 3.2), (1, 1.4), "S", fill=DONE)
    arrow(shared, (12.7, 3.9), (7.5, 3.9))
    say(shared, 11.6, 4.35, "∘ λₘ, · Aᵀ", 8)
    say(shared, 11.6, 3.5, "for all m", 8)
    say(shared, 2.3, 1.6, "X  (n, K)")
    say(shared, 7.5, 0.6, "Y  (M, n, O)")
    say(shared, 13.2, 1.6, "S  (n, R)")
    save(figure, path)


def _operands(axes: Axes) -> None:
    """W^T, B^T and A^T above the result, with the columns that one program reads."""
    shift = 0.5 if "shared" in axes.get_title(loc="left") else 0
    box(axes, (4.6, 6.6), (5, 2.4))
    box(axes, (6, 6.6), (1.5, 2.4), fill=READ)
    box(axes, (6, 7.6), (1.5, 0.75), "BK × BN", fill=PART, fontsize=7)
    box(axes, (12.2 + shift, 6.6), (1, 2.4), fill=READ)
    box(axes, (12.2 + shift, 7.6), (1, 0.75), "BR", fill=PART, fontsize=8)
    box(axes, (4.6, 9.5), (5, 0.7))
    box(axes, (6, 9.5), (1.5, 0.7), "BR × BN", fill=LAM, fontsize=7)
    say(axes, 4.4, 7.8, "Wᵀ (K, O)", align="right")
    say(axes, 4.4, 9.85, "Aᵀ (R, O)", align="right")
    say(axes, 12.7 + shift, 9.3, "Bᵀ (K, R)")


def weights(path: Path) -> None:
    """linear_weights: blocks, splits and the workspace; and the order of tiles."""
    figure, (blocks, order) = plt.subplots(1, 2, figsize=(12, 4.9), width_ratios=(1.75, 1))
    panel(blocks, 17, 9, "linear_weights: [G | U]ᵀ [X | S∘Λ | 1], each split its own rows")
    splits = ("#c6dbef", "#fdd0a2", "#c7e9c0")
    for i, color in enumerate(splits):
        box(blocks, (0.8 + 1.1 * i, 0.6), (1.1, 3.4), fill=color)
        box(blocks, (0.8 + 1.1 * i, 4), (1.1, 1), fill=color)
        box(blocks, (4.9, 8.3 - 0.9 * (i + 1)), (3.6, 0.9), fill=color)
        box(blocks, (8.5, 8.3 - 0.9 * (i + 1)), (1, 0.9), fill=color)
        box(blocks, (9.5, 8.3 - 0.9 * (i + 1)), (0.35, 0.9), fill=color)
        say(blocks, 1.35 + 1.1 * i, 0.25, str(i), 8)
    say(blocks, 4.3, 0.25, "splits", 8)
    say(blocks, 0.4, 2.3, "Gᵀ (O, rows)", turn=90)
    say(blocks, 0.4, 4.5, "Uᵀ", turn=90)
    say(blocks, 6.7, 8.65, "X (rows, K)")
    say(blocks, 9, 8.65, "S∘Λ")
    say(blocks, 9.67, 8.65, "1")
    box(blocks, (4.9, 0.6), (3.6, 3.4), fill=PALE)
    for x in (6.1, 7.3):
        rule(blocks, (x, x), (0.6, 5))
    for y in (1.73, 2.87):
        rule(blocks, (4.9, 9.85), (y, y))
    box(blocks, (4.9, 4), (3.6, 1), fill="none")
    box(blocks, (8.5, 0.6), (1.35, 3.4), fill="none")
    box(blocks, (6.1, 1.73), (1.2, 1.14), "dW", fill=DONE, fontsize=8)
    box(blocks, (8.5, 2.87), (1.35, 1.13), "dA, db", fill=DONE, fontsize=8)
    box(blocks, (4.9, 4), (1.2, 1), "dB", fill=DONE, fontsize=8)
    box(blocks, (8.5, 4), (1.35, 1), "–", fill="white")
    for i, color in enumerate(splits):
        box(blocks, (11.4, 4.4 - 1.3 * i), (2.3, 0.9), f"split {i}", fill=color, fontsize=8)
    say(blocks, 12.55, 5.75, "workspace", 9)
    say(blocks, 12.55, 1.35, "float32", 8)
    arrow(blocks, (10, 3.4), (11.3, 3.4))
    arrow(blocks, (13.8, 3.4), (15, 3.4))
    box(blocks, (15.1, 2.9), (1.6, 1), "dW dA\ndB db", fill=DONE, fontsize=8)
    say(blocks, 14.7, 4.6, "add_splits:\nsplit 0 first,\none rounding", 8, align="left")

    panel(order, 9, 8.6, "tile_of: programs in groups of 4 row tiles")
    rows, columns, group = 7, 6, 4
    for program in range(rows * columns):
        first = program // (group * columns) * group
        within, height = program % (group * columns), min(rows - first, group)
        row, column = first + within % height, within // height
        box(order, (1.2 + column * 1.2, 7.2 - row * 1.1), (1.2, 1.1), str(program), fill=READ if first == 0 else PART)
    say(order, 0.6, 4.5, "row tiles", turn=90)
    say(order, 4.8, 0.1, "column tiles (GROUP is 8 in the kernels)")
    save(figure, path)


def basis(path: Path) -> None:
    """linear_basis and linear_combine."""
    figure, (stacked, shared) = plt.subplots(1, 2, figsize=(12, 4.1))
    names = ("W", "D₁", "D₂")
    panel(stacked, 12.2, 7.6, "linear_basis, stacked rays: T+1 products in one reduction")
    for i, name in enumerate(names):
        x, text = 0.4 + 2.2 * i, "X" if i == 0 else f"λ{'₁₂'[i - 1]} ∘ X"
        box(stacked, (x, 0.6), (2.2, 3), fill=RAYS[i])
        box(stacked, (x, 1.5), (2.2, 1.1), text, fill=READ, fontsize=8.5)
        box(stacked, (8.4, 6.8 - 1.0 * (i + 1)), (3.4, 1.0), fill=RAYS[i])
        box(stacked, (9.5, 6.8 - 1.0 * (i + 1)), (1.1, 1.0), fill=READ)
        say(stacked, 8.2, 6.3 - 1.0 * i, f"{name}ᵀ", align="right")
    box(stacked, (8.4, 0.6), (3.4, 3))
    box(stacked, (9.5, 1.5), (1.1, 1.1), "acc", fill=DONE)
    say(stacked, 3.7, 0.1, "rows scaled in registers, one load of λ per row")
    say(stacked, 10.1, 0.1, "Y (M·n, O)")
    say(stacked, 3.7, 4.1, "the loop runs over (T+1)·K")
    arrow(stacked, (1.2, 3.85), (6.6, 3.85))

    panel(shared, 12.2, 7.6, "linear_combine, shared input: Z stays in registers")
    colors = (PALE, READ, PART)
    for o in range(4):
        for e, name in enumerate(names):
            box(shared, (3.4 + 1.95 * o + 0.65 * e, 4.9), (0.65, 1.5), name, fill=colors[e], fontsize=8)
            box(shared, (3.4 + 1.95 * o + 0.65 * e, 3.1), (0.65, 1.1), fill=colors[e])
        say(shared, 4.37 + 1.95 * o, 6.75, f"output {o}", 8)
        box(shared, (3.4 + 1.95 * o, 0.9), (1.95, 1.1), fill=DONE)
        arrow(shared, (4.37 + 1.95 * o, 3.1), (4.37 + 1.95 * o, 2.05))
    box(shared, (0.6, 3.1), (1.8, 1.1), "X tile", fill=READ)
    say(shared, 2.9, 3.65, "Z =")
    say(shared, 3.2, 1.45, "Yₘ =", align="right")
    say(shared, 3.2, 2.55, "for m: Σₑ cₘₑ", 8, align="right")
    say(shared, 7.3, 0.4, "elements are neighbours, so the sum over e stays in a thread or next to it", 8)
    save(figure, path)


def convolution(path: Path) -> None:
    """conv_gemm: implicit GEMM, and the residue classes of the input gradient."""
    figure, (gemm, classes, split) = plt.subplots(1, 3, figsize=(13, 4.4), width_ratios=(1.45, 0.85, 1.1))
    panel(gemm, 13.6, 9.4, "conv_gemm: the im2col matrix is only addresses")
    for m, color in enumerate(RAYS):
        box(gemm, (0.9, 4 - 2 * m), (4.5, 2), fill=color)
        box(gemm, (8.6, 4 - 2 * m), (3, 2), fill=color)
        box(gemm, (8.6 + 0.45 * (2 - m), 6.6 + 0.3 * (2 - m)), (3, 2.0), fill=RAYS[2 - m])
        say(gemm, 0.4, 5 - 2 * m, f"ray {m + 1}", turn=90)
    for i in range(1, 9):
        rule(gemm, (0.9 + 0.5 * i,) * 2, (0, 6), "#bbbbbb")
    box(gemm, (0.9, 4.6), (4.5, 0.9), fill="none")
    box(gemm, (2.9, 4.6), (0.5, 0.9), fill=PART)
    box(gemm, (9.5, 4.6), (1.1, 0.9), "acc", fill=DONE)
    box(gemm, (9.5, 6.6), (1.1, 2.0), fill=READ)
    box(gemm, (9.5, 7.5), (1.1, 0.5), "BK", fill=PART, fontsize=8)
    say(gemm, 3.3, -0.35, "x: positions × (tap, channel)", 8.5)
    say(gemm, 10.1, -0.35, "y: positions × O", 8.5)
    say(gemm, 5.6, 5.05, "BM positions\nof one ray", 8, align="left")
    say(gemm, 8.4, 7.6, "K₁ (taps·C, O)\nof the tile's ray", 8.5, align="right")
    arrow(gemm, (7.9, 5.05), (9.4, 5.05))

    panel(classes, 7.4, 9.4, "dX, 3 × 3, stride 2, padding 1")
    taps, shade = {(0, 0): "1", (0, 1): "2", (1, 0): "2", (1, 1): "4"}, (READ, PART, DONE, LAM)
    for h in range(6):
        for w in range(6):
            a, b = h % 2, w % 2
            box(classes, (0.7 + w, 7.2 - h), (1, 1), taps[a, b], fill=shade[2 * a + b])
    say(classes, 3.7, 1.55, "four classes, and the taps of each;", 8)
    say(classes, 3.7, 0.95, "a program takes one class: no", 8)
    say(classes, 3.7, 0.4, "product with an inserted zero", 8)

    panel(split, 10.4, 9.4, "conv_kernel_gradient: positions in stretches")
    for i in range(4):
        box(split, (0.5, 6.9 - 1.1 * i), (1.5, 1.1), f"G {i}", fill=RAYS[i % 3], fontsize=8.5)
        box(split, (2.3, 6.9 - 1.1 * i), (1.9, 1.1), f"x {i}", fill=RAYS[i % 3], fontsize=8.5)
        arrow(split, (4.3, 7.45 - 1.1 * i), (5.3, 7.45 - 1.1 * i))
        box(split, (5.4, 7.0 - 1.1 * i), (2, 0.9), "Gᵢᵀ xᵢ".replace("ᵢ", "₀₁₂₃"[i]), fill=PART, fontsize=8.5)
    say(split, 6.4, 8.4, "workspace, float32", 8)
    arrow(split, (6.4, 3.5), (6.4, 2.5))
    box(split, (5.4, 1.4), (2, 1), "dKₘ", fill=DONE)
    say(split, 5.1, 2.9, "added in order, split 0 first", 8, align="right")
    box(split, (8, 1.4), (2.2, 1), "Σₘ = dW", fill=DONE, fontsize=8.5)
    arrow(split, (7.4, 1.9), (8, 1.9))
    say(split, 2.35, 8.4, "one ray, one tile", 8)
    save(figure, path)


def maps(path: Path) -> None:
    """merge_low_rank and the two passes over the maps of [W; B]."""
    figure, (merge, forward, backward) = plt.subplots(1, 3, figsize=(13, 3.9), width_ratios=(1, 1, 1))
    panel(merge, 10.4, 7.8, "merge_low_rank: one tile, all rays")
    box(merge, (0.3, 2.6), (1, 3), fill=PALE)
    say(merge, 0.8, 5.95, "A")
    box(merge, (0.3, 3.7), (1, 0.9), "BM", fill=READ, fontsize=8)
    box(merge, (2.6, 6.3), (3.4, 1), "", fill=PALE)
    box(merge, (3.6, 6.3), (1.2, 1), "BN", fill=READ, fontsize=8)
    say(merge, 2.3, 6.8, "B", align="right")
    box(merge, (2.6, 2.6), (3.4, 3), fill=PALE)
    box(merge, (3.6, 3.7), (1.2, 0.9), "W", fill=READ)
    for m in (2, 1, 0):
        box(merge, (6.8 + 0.4 * m, 2.9 - 0.5 * m), (2.6, 2.6), fill=RAYS[m])
        box(merge, (7.4 + 0.4 * m, 3.8 - 0.5 * m), (1.2, 0.9), f"K{'₁₂₃'[m]}", fill=DONE, fontsize=8)
    say(merge, 5.1, 0.8, "W, A, B once; for m: W + (A ∘ λₘ) B", 8.5)
    say(merge, 5.1, 0.2, "added in float32, rounded once", 8.5)

    panel(forward, 10.4, 7.8, "add_adapters: the epilogue of conv(x, [W; B])")
    box(forward, (0.4, 1.6), (3, 4.4), fill=PALE)
    box(forward, (3.4, 1.6), (1, 4.4), fill=PALE)
    say(forward, 1.9, 6.4, "x ∗ W")
    say(forward, 3.9, 6.4, "x ∗ B")
    box(forward, (1.2, 3.9), (1.2, 1), "base", fill=READ, fontsize=8)
    box(forward, (3.4, 3.9), (1, 1), "S", fill=READ, fontsize=8)
    box(forward, (6.8, 1.6), (3, 4.4), "", fill=PALE)
    box(forward, (7.6, 3.9), (1.2, 1), "y", fill=DONE)
    box(forward, (6.8, 6.4), (3, 0.8))
    box(forward, (7.6, 6.4), (1.2, 0.8), "Aᵀ", fill=LAM, fontsize=8)
    arrow(forward, (4.5, 4.4), (7.5, 4.4))
    say(forward, 5.6, 4.8, "∘ Λ, · Aᵀ", 8)
    say(forward, 5.6, 4.0, "+ base + b", 8)
    say(forward, 2.4, 1.2, "maps (positions, O + R)", 8.5)
    say(forward, 8.3, 1.2, "y (positions, O)", 8.5)
    say(forward, 5.1, 0.4, "shared: the same tile written for every ray", 8.5)

    panel(backward, 10.4, 7.8, "adapter_gradients: what the library needs back")
    box(backward, (0.4, 1.6), (3, 4.4), "", fill=PALE)
    box(backward, (0.4, 3.9), (3, 1), "G", fill=READ)
    box(backward, (3.7, 1.6), (0.9, 4.4), "", fill=PALE)
    box(backward, (3.7, 3.9), (0.9, 1), "S", fill=READ, fontsize=8)
    box(backward, (6, 1.6), (2.6, 4.4), "", fill=PALE)
    box(backward, (6, 3.9), (2.6, 1), "G", fill=DONE)
    box(backward, (8.6, 1.6), (0.9, 4.4), "", fill=PALE)
    box(backward, (8.6, 3.9), (0.9, 1), "U", fill=DONE)
    arrow(backward, (4.7, 4.4), (5.9, 4.4))
    say(backward, 7.7, 6.4, "[G | U], one tensor", 8.5)
    say(backward, 5.1, 1.0, "U = (G A) ∘ Λ; also S ∘ Λ, for dA,", 8.5)
    say(backward, 5.1, 0.3, "and Σⱼ S ∘ U₀ a row, for dλ", 8.5)
    save(figure, path)


def rays(path: Path) -> None:
    """The two kernels that read what M rays left behind once: linear_rays and pull_low_rank."""
    figure, (linear_rays, pull) = plt.subplots(1, 2, figsize=(12, 4.4))
    panel(linear_rays, 13, 8.4, "linear_rays: the same 16 rows of every ray")
    for m, color in enumerate(RAYS):
        box(linear_rays, (0.6, 5.2 - 2.2 * m), (4.4, 2), fill=color)
        box(linear_rays, (0.6, 5.9 - 2.2 * m), (4.4, 0.6), fill=READ)
        box(linear_rays, (1.7, 5.9 - 2.2 * m), (1.3, 0.6), "BO", fill=PART, fontsize=8)
        say(linear_rays, 0.2, 6.2 - 2.2 * m, f"G{'₁₂₃'[m]}", 8.5, turn=90)
        box(linear_rays, (11.2, 5.2 - 2.2 * m), (0.9, 2), fill=color)
        box(linear_rays, (11.2, 5.9 - 2.2 * m), (0.9, 0.6), "U₀", fill=DONE, fontsize=8)
        arrow(linear_rays, (5.1, 6.2 - 2.2 * m), (5.9, 6.2 - 2.2 * m))
    box(linear_rays, (6, 3), (4.1, 2), fill=PALE)
    box(linear_rays, (6, 3.7), (4.1, 0.6), "Σₘ Gₘ", fill=DONE, fontsize=8.5)
    say(linear_rays, 8, 6.2, "Gₘ A →", 9)
    say(linear_rays, 8, 1.8, "Gₘ A →", 9)
    say(linear_rays, 6.4, -0.1, "a program walks all columns of its rows; G is read once", 8.5)

    panel(pull, 13, 8.4, "pull_low_rank: one reading of M kernels' gradients")
    for m in (2, 1, 0):
        box(pull, (0.5 + 0.4 * m, 2.4 - 0.5 * m), (3.6, 4.4), fill=RAYS[m])
        box(pull, (1.4 + 0.4 * m, 4.3 - 0.5 * m), (1.2, 0.9), f"dK{'₁₂₃'[m]}", fill=READ, fontsize=8)
    box(pull, (1.4, 7.2), (1.2, 0.8), "B", fill=LAM, fontsize=8.5)
    box(pull, (5.1, 4.3), (0.8, 0.9), "A", fill=LAM, fontsize=8.5)
    for y, text, why in (
        (6.4, "dW", "Σₘ dKₘ"),
        (4.8, "dA", "Σₘ (dKₘ Bᵀ) ∘ λₘ, a share for each stretch of columns"),
        (3.2, "dB", "Σₘ (A ∘ λₘ)ᵀ dKₘ, a share for each tile of rows"),
        (1.6, "dλₘ", "columns of A ∘ (dKₘ Bᵀ), a share for each tile"),
    ):
        box(pull, (7.2, y), (1.1, 0.9), text, fill=DONE, fontsize=8.5)
        say(pull, 8.6, y + 0.45, why, 8, align="left")
        arrow(pull, (6, 4.5), (7.1, y + 0.45))
    say(pull, 6.4, -0.1, "shares are float32 and added in order", 8.5)
    save(figure, path)


def cpu(path: Path) -> None:
    """The register tile, the skinny pass and the direct convolution."""
    figure, (tile, skinny, direct) = plt.subplots(1, 3, figsize=(13, 3.9))
    panel(tile, 10.4, 7.8, "register tile: P positions × N vectors")
    for n in range(4):
        box(tile, (2.4 + 1.8 * n, 5.9), (1.8, 0.8), f"w{'₀₁₂₃'[n]}", fill=READ, fontsize=8)
    for p in range(6):
        box(tile, (0.7, 4.7 - 0.75 * p), (1, 0.75), f"x{'₀₁₂₃₄₅'[p]}", fill=PART, fontsize=8)
        for n in range(4):
            box(tile, (2.4 + 1.8 * n, 4.7 - 0.75 * p), (1.8, 0.75), fill=DONE)
    say(tile, 1.2, 6.3, "broadcast", 8)
    say(tile, 6, 7.1, "one (tap, channel): 4 vectors of outputs", 8)
    say(tile, 5.2, 0.4, "AVX-512: 6 × 4 sums, 4 operands and a broadcast", 8.5)

    panel(skinny, 10.4, 7.8, "skinny pass: a chunk of rows stays in cache")
    box(skinny, (0.3, 0.9), (3.6, 5.6), fill=PALE)
    box(skinny, (0.3, 3.5), (3.6, 1.2), "X chunk", fill=READ)
    box(skinny, (4.6, 3.5), (0.8, 1.2), "S", fill=PART)
    box(skinny, (6.4, 0.9), (3.6, 5.6), fill=PALE)
    box(skinny, (6.4, 3.5), (3.6, 1.2), "Y chunk", fill=DONE)
    arrow(skinny, (3.9, 4.1), (4.6, 4.1))
    arrow(skinny, (5.4, 4.1), (6.4, 4.1))
    say(skinny, 5.0, 5.1, "dots", 8)
    say(skinny, 5.15, 3.0, "update", 8)
    say(skinny, 8.2, 6.85, "Y = X Wᵀ (GEMM before)", 8.5)
    say(skinny, 5.2, 0.3, "Y += (S ∘ Λ) Aᵀ, then the next chunk", 8.5)

    panel(direct, 10.4, 7.8, "direct: one output row, E sums, M results")
    for y in range(3):
        box(direct, (0.3, 5.7 - 0.7 * y), (2.7, 0.7), fill=READ)
    say(direct, 1.65, 3.4, "kh input rows,\npadded", 8)
    for e in range(3):
        box(direct, (3.9, 5.7 - 0.7 * e), (2.4, 0.7), f"z{'₀₁₂'[e]}", fill=PART, fontsize=8)
    say(direct, 5.1, 3.4, "E basis rows,\nin cache", 8)
    for m in range(5):
        box(direct, (7.4, 6.1 - 0.7 * m), (2.6, 0.7), f"y{'₁₂₃₄₅'[m]}", fill=DONE, fontsize=8)
    arrow(direct, (3.05, 5.35), (3.85, 5.35))
    arrow(direct, (6.35, 5.35), (7.35, 5.35))
    say(direct, 8.7, 2.75, "a row of every ray", 8)
    say(direct, 5.2, 1.5, "conv_row, then combine_row: yₘ = Σₑ cₘₑ zₑ", 8.5)
    say(direct, 5.2, 0.7, "back: reduce_row, conv_row_kernel", 8.5)
    save(figure, path)


def main(folder: Path) -> None:
    for draw in (linear, weights, basis, convolution, maps, rays, cpu):
        draw(folder / f"kernels-{draw.__name__}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent))
