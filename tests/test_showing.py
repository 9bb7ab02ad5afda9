"""Inputs, targets and answers as JSON."""

from __future__ import annotations

import base64
import io
import json

import pytest
import torch
from PIL import Image
from torch import Tensor

from palora.showing import kind_of, show_input, show_tasks
from palora.showing.pictures import CLASS_COLOURS, SIDE


def pixels(uri: str) -> Image.Image:
    head, _, text = uri.partition(";base64,")
    assert head in ("data:image/png", "data:image/jpeg")
    return Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


@pytest.mark.parametrize(
    "output, target, kind",
    [
        (torch.zeros(10), torch.tensor(3), "classes"),
        (torch.zeros(1), torch.zeros(1), "values"),
        (torch.zeros(13, 4, 6), torch.zeros(4, 6, dtype=torch.int64), "segmentation"),
        (torch.zeros(1, 4, 6), torch.zeros(1, 4, 6), "depth"),
        (torch.zeros(3, 4, 6), torch.zeros(3, 4, 6), "normals"),
    ],
)
def test_kinds(output: Tensor, target: Tensor, kind: str) -> None:
    assert kind_of(output, target) == kind


def test_classes() -> None:
    scores = torch.randn(3, 5)
    shown = show_tasks([scores, scores.flip(1)], [torch.tensor(2), torch.tensor(-1)])
    assert [truth["class"] for truth in shown.truth] == [2, None]
    assert len(shown.answers) == 3
    for m, (first, second) in enumerate(shown.answers):
        exact = scores[m].softmax(0)
        assert first["class"] == int(exact.argmax())
        assert second["class"] == 4 - first["class"]
        assert first["confidence"] == pytest.approx(float(exact.max()), abs=6e-5)
        assert first["probabilities"] == pytest.approx(exact.tolist(), abs=6e-5)


def test_of_many_classes_the_true_one_and_the_likely_ones_are_kept() -> None:
    scores = torch.zeros(2, 1000)
    scores[0, 7], scores[1, 900] = 9.0, 8.0
    shown = show_tasks([scores], [torch.tensor(500)])
    kept = shown.truth[0]["classes"]
    assert len(kept) == 10
    assert {7, 500, 900} <= set(kept)
    probabilities = shown.answers[1][0]["probabilities"]
    assert kept[max(range(10), key=probabilities.__getitem__)] == 900


def test_values_are_rounded_and_finite_or_nothing() -> None:
    shown = show_tasks([torch.tensor([[1 / 3], [torch.nan]])], [torch.tensor([2.0])])
    assert shown.truth == [{"values": [2.0]}]
    assert shown.answers == [[{"values": [0.3333]}], [{"values": [None]}]]
    json.dumps(shown.answers, allow_nan=False)


def test_segmentation_has_a_colour_a_class_and_white_without_label() -> None:
    target = torch.tensor([[0, 1], [2, -1]])
    output = torch.nn.functional.one_hot(torch.tensor([[1, 1], [2, 0]]), 3).movedim(-1, 0).float()
    shown = show_tasks([output[None]], [target])
    truth, answer = pixels(shown.truth[0]["picture"]), pixels(shown.answers[0][0]["picture"])
    assert [truth.getpixel((x, y)) for y in range(2) for x in range(2)] == [
        *(rgb(CLASS_COLOURS[c]) for c in (0, 1, 2)),
        (255, 255, 255),
    ]
    assert answer.getpixel((0, 1)) == rgb(CLASS_COLOURS[2])


def test_depth_is_painted_in_the_range_of_the_truth() -> None:
    target = torch.tensor([[[1.0, 3.0], [0.0, 2.0]]])
    shown = show_tasks([torch.tensor([[[[1.0, 3.0], [9.0, -9.0]]]])], [target])
    truth, answer = pixels(shown.truth[0]["picture"]), pixels(shown.answers[0][0]["picture"])
    assert shown.truth[0]["range"] == [1.0, 3.0]
    assert truth.getpixel((0, 1)) == (255, 255, 255), "no depth there"
    near, far = truth.getpixel((0, 0)), truth.getpixel((1, 0))
    assert near != far
    assert [answer.getpixel((x, y)) for y in range(2) for x in range(2)] == [near, far, far, near]


def test_normals_do_not_depend_on_their_length() -> None:
    target = torch.zeros(3, 2, 2)
    target[2] = -1.0
    shown = show_tasks([torch.stack([target * 5, target * 0.1])], [target])
    assert shown.answers[0] == shown.answers[1]
    assert shown.truth[0]["picture"] == shown.answers[0][0]["picture"]


def test_inputs() -> None:
    digit = torch.linspace(0, 1, 784).reshape(1, 28, 28)
    shown = show_input(digit)
    assert shown["width"] == 28
    assert pixels(shown["picture"]).getpixel((27, 27)) == (255, 255, 255)
    large = pixels(show_input(torch.rand(3, 300, 600))["picture"])
    assert large.size == (SIDE, SIDE // 2)
    stretched = pixels(show_input(torch.tensor([[[-4.0, 4.0]]]))["picture"])
    assert [stretched.getpixel((x, 0))[0] for x in (0, 1)] == [0, 255]
    row = show_input(torch.arange(40.0))
    assert (len(row["values"]), row["of"]) == (32, 40)
    assert show_input(torch.zeros(7, 12)) == {"kind": "tensor", "shape": [7, 12]}
