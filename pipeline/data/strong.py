"""The strong view of an image: two operations of fourteen, one after the other, then a grey box (Cutout).

    AutoContrast              each channel is stretched to 0 .. 255
    Equalize                  each channel's histogram is made flat
    Posterize        4 .. 8   so many of the highest bits stay, rounded down
    Solarize       0 .. 256   levels from here on are inverted
    Brightness   .05 .. .95   share of the image; the rest is black
    Contrast     .05 .. .95   and the rest is the mean of the grey image
    Color        .05 .. .95   and the rest is the grey image
    Sharpness    .05 .. .95   and the rest is the blurred image
    Rotate       -30 .. 30    degrees, counter-clockwise about the centre
    ShearX, Y    -.3 .. .3    columns for each row, or rows for each column
    TranslateX, Y  -.3 .. .3  shares of the size; positive ones move to the left, or up
    Identity

Each of the two is any of these with equal chance, and its number is uniform in the range. Outside of the image is
black. The box always follows. Its side is uniform in 0 .. 1/2 of the image's, and its centre is anywhere.

All of it is done to uint8 pixels, after crop and flip and before normalisation, to whole batches at once on their
device. The levels are those that Pillow computes image by image, except that Pillow's AutoContrast is sometimes one
level lower where the exact result is a whole number. Shifts and boxes are shares of the image's size; where they were
published, the size was 32.

The operations are a part of RandAugment's (Cubuk, Zoph, Shlens, Le, CVPR Workshops 2020), in the ranges of Jin, Wang,
Lin, "Multi-Level Logit Distillation", CVPR 2023, whose strength 10 has no effect. Cutout: DeVries, Taylor,
arXiv:1708.04552. Two slips of the published code are kept, because the published numbers come with them: the box's
centre lies at 1 pixel or more from the left and upper edge, and the box is one pixel larger than its side.
"""

from collections.abc import Callable

import torch
from torch import Tensor

OPERATIONS: dict[str, tuple[float, float]] = {
    "AutoContrast": (0, 0),
    "Equalize": (0, 0),
    "Posterize": (4, 8),
    "Solarize": (0, 256),
    "Brightness": (0.05, 0.95),
    "Contrast": (0.05, 0.95),
    "Color": (0.05, 0.95),
    "Sharpness": (0.05, 0.95),
    "Rotate": (-30, 30),
    "ShearX": (-0.3, 0.3),
    "ShearY": (-0.3, 0.3),
    "TranslateX": (-0.3, 0.3),
    "TranslateY": (-0.3, 0.3),
    "Identity": (0, 0),
}
"""Ranges of their numbers. An operation is told by its place here; those of a kind stand side by side."""
DRAWS = 7
"""Random numbers of a strong view: two operations, each with its number, and the box's side, column and row."""
_GREY = (125, 123, 114)


def draw(shares: Tensor) -> Tensor:
    """What is done to images, (N, 7) float32: operation and number, twice, then side, column and row of the box.

    shares: (N, 7) float32, uniform in [0, 1). Those of the box stay shares.
    """
    changes = shares.clone()
    for column in (0, 2):
        operation, share = (shares[:, column] * len(OPERATIONS)).floor(), shares[:, column + 1]
        changes[:, column] = operation
        for place, (least, greatest) in enumerate(OPERATIONS.values()):
            number = least + (greatest - least) * share
            changes[:, column + 1] = torch.where(operation == place, number, changes[:, column + 1])
    return changes


def change(pixels: Tensor, changes: Tensor) -> Tensor:
    """Do to uint8 images (B, H, H, 3) what `draw` says of each, (B, 7); these stay, what comes back is new."""
    for column in (0, 2):
        pixels = operate(pixels, changes[:, column], changes[:, column + 1])
    size = pixels.shape[1]
    side, column_share, row_share = changes[:, 4:].unbind(1)
    return cut_out(pixels, size / 2 * side, size - (size - 1) * column_share, size - (size - 1) * row_share)


def operate(pixels: Tensor, operation: Tensor, number: Tensor) -> Tensor:
    """uint8 images (B, H, H, 3), each after its operation (B,), a place in OPERATIONS, with its number (B,)."""
    kinds = ((_by_level, range(6)), (_greyer, range(6, 7)), (_blurred, range(7, 8)), (_moved, range(8, 13)))
    for compute, places in kinds:
        chosen = (operation >= places.start) & (operation < places.stop)
        pixels = _where(chosen, compute, pixels, operation - places.start, number)
    return pixels


def cut_out(pixels: Tensor, side: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """uint8 images (B, H, H, 3) with a box in each: its side (B,) and its centre (B,), in pixels from the left and
    upper edge."""
    size = pixels.shape[1]
    box = _span(side, row, size).unsqueeze(2) & _span(side, column, size).unsqueeze(1)
    return torch.stack([pixels[..., c].masked_fill(box, level) for c, level in enumerate(_GREY)], 3)


def _span(side: Tensor, centre: Tensor, size: int) -> Tensor:
    """Which of `size` rows the box takes, (B, size) bool: moved at the first edge, cut off at the last."""
    first = (centre - side / 2).clamp(min=0).floor()
    index = torch.arange(size, device=side.device)
    return (index >= first.unsqueeze(1)) & (index <= (first + side).unsqueeze(1))


def _where(chosen: Tensor, compute: Callable[..., Tensor], pixels: Tensor, *numbers: Tensor) -> Tensor:
    """Change the chosen (B,) images. An accelerator computes all: to ask it which are chosen is to wait for it."""
    if pixels.device.type != "cpu":
        return torch.where(chosen.view(-1, 1, 1, 1), compute(pixels, *numbers), pixels)
    some = chosen.nonzero().squeeze(1)
    return pixels.index_copy(0, some, compute(pixels[some], *(values[some] for values in numbers)))


def _by_level(pixels: Tensor, which: Tensor, number: Tensor) -> Tensor:
    """AutoContrast, Equalize, Posterize, Solarize, Brightness, Contrast: by a table for each channel of each image."""
    channel = torch.arange(3 * len(pixels), device=pixels.device).view(-1, 1, 3).repeat(1, 1, pixels.shape[2])
    # Row by row: over an innermost axis of 3, torch's loops would start anew for every pixel.
    index = (256 * channel + pixels.flatten(2)).flatten()
    counts = index.new_zeros(768 * len(pixels)).scatter_add_(0, index, torch.ones_like(index)).view(-1, 3, 256)
    level = torch.arange(256, device=pixels.device)
    least = torch.where(counts > 0, level, 255).amin(2, keepdim=True)
    greatest = torch.where(counts > 0, level, 0).amax(2, keepdim=True)
    stretched = (255 * (level - least) // (greatest - least).clamp(min=1)).clamp(0, 255)
    places = pixels.shape[1] * pixels.shape[2]
    step = (places - counts.gather(2, greatest)) // 255
    flat = ((step // 2 + counts.cumsum(2) - counts) // step.clamp(min=1)).clamp(max=255)
    mean = (2 * _grey(pixels).sum((1, 2)) + places) // (2 * places)
    which, number, mean = (x.view(-1, 1, 1) for x in (which, number, mean))
    rest, lost = torch.where(which == 5, mean, 0), 8 - number.long()
    table = (rest + number * (level - rest)).long()
    for place, changed in (
        (0, torch.where(greatest > least, stretched, level)),
        (1, torch.where(step > 0, flat, level)),
        (2, level >> lost << lost),
        (3, torch.where(level < number, level, 255 - level)),
    ):
        table = torch.where(which == place, changed, table)
    return table.to(torch.uint8).flatten().index_select(0, index).view_as(pixels)


def _greyer(pixels: Tensor, which: Tensor, share: Tensor) -> Tensor:
    """Color."""
    grey, share = _grey(pixels), share.view(-1, 1, 1)
    return torch.stack([(grey + share * (channel - grey)).to(torch.uint8) for channel in pixels.unbind(3)], 3)


def _grey(pixels: Tensor) -> Tensor:
    """The luma of ITU-R 601-2, (B, H, H) int32."""
    red, green, blue = (channel.int() for channel in pixels.unbind(3))
    return 19595 * red + 38470 * green + 7471 * blue + 32768 >> 16


def _blurred(pixels: Tensor, which: Tensor, share: Tensor) -> Tensor:
    """Sharpness. The blurred image is the mean over 3 x 3 pixels with five times the middle one; its edge stays."""
    rest = pixels.int()
    rows = rest[:, :-2] + rest[:, 1:-1] + rest[:, 2:]
    box = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    middle = rest[:, 1:-1, 1:-1]
    middle.copy_((2 * (box + 4 * middle) + 13) // 26)
    return (rest + share.view(-1, 1, 1, 1) * (pixels - rest)).to(torch.uint8)


def _moved(pixels: Tensor, which: Tensor, number: Tensor) -> Tensor:
    """Rotate, ShearX, ShearY, TranslateX, TranslateY: the pixel of another place."""
    size, half = pixels.shape[1], pixels.shape[1] / 2
    # In float64, as Pillow: a last digit of float32 may decide where a pixel comes from.
    number = number.double()
    turn, shear_x, shear_y, shift_x, shift_y = (torch.where(which == place, number, 0) for place in range(5))
    cos, sin = turn.deg2rad().cos(), turn.deg2rad().sin()
    # Where the middle of the first pixel comes from, and how far beside it each further column and row does.
    first = half + (0.5 - half) * (cos - sin) + 0.5 * shear_x + size * shift_x
    column = _source(first, cos, shear_x - sin, size)
    first = half + (0.5 - half) * (cos + sin) + 0.5 * shear_y + size * shift_y
    row = _source(first, shear_y + sin, cos, size)
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    image = torch.arange(len(pixels), device=pixels.device).view(-1, 1, 1)
    return pixels[image, row.clamp(0, size - 1), column.clamp(0, size - 1)] * inside.unsqueeze(3)


def _source(first: Tensor, by_column: Tensor, by_row: Tensor, size: int) -> Tensor:
    """The row, or column, that each pixel comes from, (B, H, H) int32, by three numbers (B,) of each image.

    Counted in whole 65,536ths of a pixel, as Pillow does: then they round alike on every device.
    """
    first, by_column, by_row = ((65536 * x + 0.5).floor().int().view(-1, 1, 1) for x in (first, by_column, by_row))
    index = torch.arange(size, dtype=torch.int32, device=first.device)
    return (first + by_column * index + by_row * index.unsqueeze(1)) >> 16
