from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("PIL")

from PIL import Image

from palora.data.collage import Layout, collages, compose, draw, resize

TWO = Layout(36, ((0, 0), (6, 6)))
THREE = Layout(42, ((0, 0), (0, 14), (14, 7)))
IMAGES = np.random.default_rng(0).integers(256, size=(12, 28, 28), dtype=np.uint8)


def pixel_by_pixel(digits: np.ndarray, layout: Layout) -> np.ndarray:
    """One canvas, by the definition: each pixel is the brightest of the digits that cover it."""
    canvas = np.zeros((layout.canvas, layout.canvas), dtype=np.uint8)
    for row in range(layout.canvas):
        for column in range(layout.canvas):
            for digit, (top, left) in zip(digits, layout.corners, strict=True):
                if 0 <= row - top < 28 and 0 <= column - left < 28:
                    canvas[row, column] = max(canvas[row, column], digit[row - top, column - left])
    return canvas


@pytest.mark.parametrize("layout", [TWO, Layout(36, ((0, 0), (8, 8))), THREE], ids=["6", "8", "three"])
def test_collages_equal_a_loop_over_samples(layout: Layout) -> None:
    index = draw(len(IMAGES), 15, len(layout.corners), (1,))
    canvases = compose(IMAGES, index, layout)
    made = collages(IMAGES, index, layout)
    assert made.shape == (15, 28, 28)
    for row, digits in enumerate(index):
        canvas = pixel_by_pixel(IMAGES[digits], layout)
        np.testing.assert_array_equal(canvases[row], canvas)
        np.testing.assert_array_equal(made[row], np.array(Image.fromarray(canvas).resize((28, 28))))


def test_resizing_is_that_of_floats_up_to_rounding() -> None:
    # Little contrast, so that the filter's overshoot is never clipped.
    images = np.random.default_rng(2).integers(100, 156, size=(5, 36, 36), dtype=np.uint8)
    for image, made in zip(images, resize(images, 28), strict=True):
        exact = np.array(Image.fromarray(image / 255.0).resize((28, 28)))
        assert np.abs(made / 255.0 - exact).max() <= 1.5 / 255, "PIL rounds once in each of its two passes"


def test_slices_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    index = draw(len(IMAGES), 20, 2, (3,))
    whole = collages(IMAGES, index, TWO)
    steps: list[tuple[str, int, int | None]] = []
    monkeypatch.setattr("palora.data.collage._ROWS", 7)
    np.testing.assert_array_equal(
        collages(IMAGES, index, TWO, progress=lambda *step: steps.append(step), what="w"), whole
    )
    assert steps == [("w", 7, 20), ("w", 14, 20), ("w", 20, 20)]


@pytest.mark.parametrize("tasks", [2, 3, 5])
def test_rows_hold_different_digits_and_the_first_column_has_its_turn(tasks: int) -> None:
    index = draw(7, 700, tasks, (0, 1))
    assert index.min() >= 0
    assert index.max() < 7
    assert all(len(set(row)) == tasks for row in index.tolist())
    np.testing.assert_array_equal(index[:, 0], np.arange(700) % 7)


def test_the_right_digit_is_uniform_over_the_others() -> None:
    index = draw(5, 40_000, 2, (0, 1))
    counts = np.zeros((5, 5))
    np.add.at(counts, (index[:, 0], index[:, 1]), 1)
    assert (np.diag(counts) == 0).all()
    others = counts[~np.eye(5, dtype=bool)]
    # 8,000 draws over 4 others: standard deviation below 40.
    assert np.abs(others - 2000).max() < 200


def test_draws_depend_on_the_seed_alone() -> None:
    np.testing.assert_array_equal(draw(50, 300, 2, (4, 1)), draw(50, 300, 2, (4, 1)))
    assert (draw(50, 300, 2, (4, 1)) != draw(50, 300, 2, (5, 1))).any()
    assert (draw(50, 300, 2, (4, 1)) != draw(50, 300, 2, (4, 2))).any()
    np.testing.assert_array_equal(draw(50, 100, 3, (4, 1)), draw(50, 300, 3, (4, 1))[:100])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`corners`.*0 … 8.*\(9, 9\)"):
        Layout(36, ((0, 0), (9, 9)))
    with pytest.raises(ValueError, match=r"`digits`.*>= 3"):
        draw(2, 5, 3, (0,))
