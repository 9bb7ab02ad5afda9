"""What somebody may upload as an input: a picture or the numbers of a row, of bounded size, as the model takes them."""

from __future__ import annotations

import io
import math
from typing import Any

import torch
from torch import Tensor

from palora.errors import PaloraError
from palora.optional import need

MOST_BYTES = 2_000_000
MOST_PIXELS = 4_000_000
PICTURES = {"image/png": "PNG", "image/jpeg": "JPEG"}
ROW = "text/csv"


class WrongKindError(PaloraError):
    """An upload of a kind that this model does not take."""


def kinds(like: Tensor) -> tuple[str, ...]:
    """The content types that fit inputs such as `like`, without a batch dimension; none for what is neither a picture
    with values in 0 … 1 nor a row of numbers."""
    if like.dim() == 1:
        return (ROW,)
    plain = like.dim() == 3 and len(like) in (1, 3) and like.min() >= 0 and like.max() <= 1
    return tuple(PICTURES) if plain else ()


def read(kind: str, body: bytes, like: Tensor) -> Tensor:
    """`body`, of the content type `kind`, as an input shaped like `like`. PaloraError in one sentence if it is not."""
    taken = kinds(like)
    if kind not in taken:
        expected = " or ".join(taken) or "none: its inputs are neither pictures in 0 … 1 nor rows"
        raise WrongKindError(f"An upload for this model should be of the type {expected}. Found {kind or 'no type'!r}.")
    if len(body) > MOST_BYTES:
        raise PaloraError(f"An upload should have at most {MOST_BYTES:,} bytes. Found {len(body):,}.")
    return _row(body, like) if kind == ROW else _picture(kind, body, like)


def _picture(kind: str, body: bytes, like: Tensor) -> Tensor:
    Image: Any = need("PIL.Image", "Reading an uploaded picture")
    channels, height, width = like.shape
    try:
        with Image.open(io.BytesIO(body), formats=(PICTURES[kind],)) as opened:
            pixels = opened.width * opened.height
            if pixels <= MOST_PIXELS:  # known before anything is decoded
                picture = opened.convert("L" if channels == 1 else "RGB").resize((width, height))
    except Exception as error:  # damaged files raise many kinds
        raise PaloraError(f"The upload is not a {PICTURES[kind]} that can be read ({type(error).__name__}).") from error
    if pixels > MOST_PIXELS:
        raise PaloraError(f"An uploaded picture should have at most {MOST_PIXELS:,} pixels. Found {pixels:,}.")
    values = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).float() / 255
    return values.view(height, width, channels).movedim(-1, 0).contiguous().to(like.dtype)


def _row(body: bytes, like: Tensor) -> Tensor:
    try:
        values = [float(word) for word in body.decode("utf-8").replace("\n", ",").split(",") if word.strip()]
    except ValueError as error:
        raise PaloraError("An uploaded row should be numbers with commas between.") from error
    if len(values) != len(like) or not all(map(math.isfinite, values)):
        raise PaloraError(f"An uploaded row should be {len(like)} finite numbers, as the data set gives them.")
    return torch.tensor(values, dtype=like.dtype)
