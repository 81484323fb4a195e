"""The strong view: each operation as Pillow computes it, and together as often and as much as the published code's.

The golden values and the statistics are those of the published code, run on the image that `image` makes.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from pipeline.data import augment, strong
from pipeline.data.feed import Feed
from pipeline.settings.data import Augment
from tests import tiny

STRONG = Augment(strong=True)
NAMES = list(strong.OPERATIONS)
DRAWN = 3000


def image() -> Tensor:
    """(1, 32, 32, 3) uint8."""
    y, x, c = np.meshgrid(range(32), range(32), range(3), indexing="ij")
    waves = 100 * np.sin(0.11 * x + 0.07 * y + 1.3 * c) + 20 * np.cos(0.9 * (96 * y + 3 * x + c))
    return torch.from_numpy(np.clip(np.floor(127.5 + waves), 0, 255).astype(np.uint8)).unsqueeze(0)


def after(name: str, number: float, pixels: Tensor) -> Tensor:
    """All images after the same operation."""
    operation = torch.full((len(pixels),), float(NAMES.index(name)))
    return strong.operate(pixels, operation, torch.full((len(pixels),), number))


def changes(images: int, seed: int = 0) -> Tensor:
    return augment.draw(STRONG, 32, 32, seed, 0, torch.arange(images)).changes


def test_the_image_is_the_published_one() -> None:
    assert image()[0, 0, 0].tolist() == [147, 236, 174]
    assert image().sum((0, 1, 2)).tolist() == [145882, 92718, 94238]


@pytest.mark.parametrize(
    ("name", "number", "sums", "pixel"),
    [
        ("AutoContrast", 0, [146901, 90423, 92403], [225, 215, 89]),
        ("Brightness", 0.4, [57946, 36671, 37286], [87, 84, 36]),
        ("Color", 0.4, [123219, 101941, 102542], [207, 203, 155]),
        ("Contrast", 0.4, [123069, 101813, 102399], [151, 147, 100]),
        ("Equalize", 0, [130495, 130341, 130393], [216, 243, 148]),
        ("Posterize", 5.7, [142328, 89136, 90744], [216, 208, 88]),
        ("Rotate", 17, [131325, 79245, 80729], [205, 171, 68]),
        ("Rotate", -30, [125802, 73610, 75116], [197, 188, 84]),
        ("Sharpness", 0.4, [145524, 92494, 94004], [217, 202, 82]),
        ("Solarize", 120.5, [63787, 65226, 65059], [36, 45, 91]),
        ("ShearX", 0.2, [125050, 78527, 88886], [228, 174, 44]),
        ("ShearX", -0.3, [140108, 78751, 64062], [222, 227, 99]),
        ("ShearY", 0.25, [124754, 81760, 85687], [220, 165, 42]),
        ("TranslateX", 0.17, [113301, 65904, 82702], [243, 163, 43]),
        ("TranslateX", -0.3, [123752, 72422, 45984], [0, 0, 0]),
        ("TranslateY", 0.1, [128436, 80151, 87093], [244, 187, 50]),
        ("Identity", 0, [145882, 92718, 94238], None),
    ],
)
def test_an_operation_golden(name: str, number: float, sums: list[int], pixel: list[int] | None) -> None:
    came = after(name, number, image())
    assert came.sum((0, 1, 2)).tolist() == sums
    assert came[0, 5, 7].tolist() == (pixel or image()[0, 5, 7].tolist())


def affine(picture: Image.Image, *numbers: float) -> Image.Image:
    return picture.transform(picture.size, Image.Transform.AFFINE, numbers)


PILLOW: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "AutoContrast": lambda picture, v: ImageOps.autocontrast(picture),
    "Equalize": lambda picture, v: ImageOps.equalize(picture),
    "Posterize": lambda picture, v: ImageOps.posterize(picture, int(v)),
    "Solarize": lambda picture, v: ImageOps.solarize(picture, v),  # type: ignore[arg-type]
    "Brightness": lambda picture, v: ImageEnhance.Brightness(picture).enhance(v),
    "Contrast": lambda picture, v: ImageEnhance.Contrast(picture).enhance(v),
    "Color": lambda picture, v: ImageEnhance.Color(picture).enhance(v),
    "Sharpness": lambda picture, v: ImageEnhance.Sharpness(picture).enhance(v),
    "Rotate": lambda picture, v: picture.rotate(v),
    "ShearX": lambda picture, v: affine(picture, 1, v, 0, 0, 1, 0),
    "ShearY": lambda picture, v: affine(picture, 1, 0, 0, v, 1, 0),
    "TranslateX": lambda picture, v: affine(picture, 1, 0, v * picture.width, 0, 1, 0),
    "TranslateY": lambda picture, v: affine(picture, 1, 0, 0, 0, 1, v * picture.width),
    "Identity": lambda picture, v: picture,
}


@pytest.mark.parametrize("image_px", [8, 31, 96])
@pytest.mark.parametrize("name", NAMES)
def test_an_operation_is_pillows_at_any_size(name: str, image_px: int) -> None:
    generator, lower = np.random.default_rng(image_px), []
    for round_number in range(40):
        # Levels of a random range, few or all of them, and once a single one.
        levels = np.sort(generator.integers(0, 256, 2)) if round_number else np.array([9, 9])
        pixels = levels[0] + generator.integers(0, 1 + levels[1] - levels[0], (image_px, image_px, 3))
        pixels = (pixels // (40 if round_number % 3 == 1 else 1)).astype(np.uint8)
        number = float(np.float32(generator.uniform(*strong.OPERATIONS[name])))
        expected = np.asarray(PILLOW[name](Image.fromarray(pixels), number)).astype(int)
        difference = after(name, number, torch.from_numpy(pixels).unsqueeze(0))[0].numpy() - expected
        # Pillow multiplies by a rounded factor there, and what should be a whole number may come out just below.
        assert set(np.unique(difference)) <= ({0, 1} if name == "AutoContrast" else {0})
        lower.append(difference.mean())
    assert np.mean(lower) < 0.01


@pytest.mark.parametrize(
    ("side", "column", "row", "rows", "columns"),
    [
        (8, 10, 20, (16, 24), (6, 14)),
        (8.5, 10.3, 20.9, (16, 24), (6, 14)),
        (0.3, 10.3, 20.9, (20, 20), (10, 10)),
        (15.9, 1.2, 31.5, (23, 31), (0, 15)),
        (16, 32, 1.01, (0, 16), (24, 31)),
        (7.9, 3, 16, (12, 19), (0, 7)),
    ],
)
def test_a_box_golden(side: float, column: float, row: float, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    came = strong.cut_out(image(), *(torch.tensor([number]) for number in (side, column, row)))
    expected = image()
    expected[:, rows[0] : rows[1] + 1, columns[0] : columns[1] + 1] = torch.tensor([125, 123, 114], dtype=torch.uint8)
    assert torch.equal(came, expected)


def boxes(of: Tensor, image_px: int) -> Tensor:
    """Where the boxes of these changes are: (N, image_px, image_px) bool."""
    alone = of.clone()
    alone[:, [0, 2]] = NAMES.index("Identity")
    return strong.change(torch.zeros(len(of), image_px, image_px, 3, dtype=torch.uint8), alone)[..., 0] > 0


def test_a_box_takes_the_same_share_of_larger_images() -> None:
    some = changes(50)
    small, large = (
        torch.stack([box.any(axis).float().argmax(1) for axis in (1, 2)] + [box.any(1).sum(1), box.any(2).sum(1)])
        for box in (boxes(some, 32), boxes(some, 320))
    )
    # First column and row, width and height: but for the pixel that a box is larger, and for the rounding.
    assert (10 * small - large).abs().max() <= 20
    assert small[2:].max() > 10


def close(name: str, values: Tensor, expected: float, se: float) -> None:
    """A mean is that of 40,000 published draws, within four standard errors of the difference."""
    values = values.double()
    bound = 4 * (se**2 + float(values.var()) / len(values)) ** 0.5
    assert abs(float(values.mean()) - expected) < bound, name


def share(name: str, where: Tensor, expected: float) -> None:
    """The same of a share of images."""
    bound = 4 * (expected * (1 - expected) * (1 / 40_000 + 1 / len(where))) ** 0.5
    assert abs(float(where.double().mean()) - expected) < bound, name


def quantile(name: str, values: Tensor, expected: float, part: float) -> None:
    """The same of a quantile, of whole numbers too, by the shares of images that lie below it and up to it."""
    bound = 4 * (part * (1 - part) * (1 / 40_000 + 1 / len(values))) ** 0.5
    below, up_to = (float(where.double().mean()) for where in (values < expected, values <= expected))
    assert below < part + bound, name
    assert up_to > part - bound, name


def test_draws_are_as_strong_as_the_published_ones() -> None:
    drawn = changes(DRAWN)
    means, moved, black = [], [], []
    for some in drawn.split(250):
        out = strong.change(image().expand(len(some), -1, -1, -1), some)
        means.append(out.float().mean((1, 2)))
        moved.append((out.short() - image().short()).abs().float().mean((1, 2, 3)))
        black.append(out.amax(3) == 0)
    channels, changed, is_black, cut = torch.cat(means), torch.cat(moved), torch.cat(black), boxes(drawn, 32)
    for channel, (mean, se, sd) in enumerate([(112.58, 0.14, 28.2), (86.32, 0.13, 25.2), (86.24, 0.13, 25.2)]):
        close(f"mean of channel {channel}", channels[:, channel], mean, se)
        close(f"variance of channel {channel}", (channels[:, channel] - mean).square(), sd**2, 2 * sd * se)
    close("change", changed, 43.74, 0.11)
    for expected, part in ((13.5, 0.1), (42.4, 0.5), (73.0, 0.9)):
        quantile("change", changed, expected, part)
    close("pixels of a box", cut.sum((1, 2)), 85.4, 0.37)
    for expected, part in ((4, 0.1), (64, 0.5), (196, 0.9)):
        quantile("pixels of a box", cut.sum((1, 2)), expected, part)
    close("black", is_black.float().mean((1, 2)), 0.0664, 0.0005)
    for (row, column), part in {(0, 0): 0.236, (0, 31): 0.287, (16, 16): 0.0003, (16, 0): 0.114}.items():
        share(f"black at {row}, {column}", is_black[:, row, column], part)
    for (row, column), part in {(0, 0): 0.023, (31, 31): 0.027, (16, 16): 0.099}.items():
        share(f"box at {row}, {column}", cut[:, row, column], part)


def test_operations_are_drawn_fairly_and_independently_and_numbers_from_their_ranges() -> None:
    drawn = changes(90_000)
    first, second = drawn[:, 0].long(), drawn[:, 2].long()
    cells = torch.bincount(first * 14 + second, minlength=196)
    expected = 90_000 / 196
    # Chi-squared with 195 degrees of freedom: above 275 less than once in 5,000 fair draws, and the draw is fixed.
    assert ((cells - expected) ** 2 / expected).sum() < 275
    for operation, number in ((first, drawn[:, 1]), (second, drawn[:, 3])):
        for place, (least, greatest) in enumerate(strong.OPERATIONS.values()):
            of_it = number[operation == place]
            assert of_it.min() >= least
            assert of_it.max() <= greatest
            assert abs(float(of_it.mean()) - (least + greatest) / 2) <= 0.02 * (greatest - least)


def test_the_first_and_the_last_share_stay_in_range() -> None:
    shares = torch.tensor([[0.0] * strong.DRAWS, [1 - 2**-24] * strong.DRAWS])
    drawn = strong.draw(shares)
    assert drawn[:, [0, 2]].tolist() == [[0, 0], [13, 13]]
    # At the right edge without a side, and at the left one with the longest: both ends are left out.
    assert boxes(drawn, 32).sum((1, 2)).tolist() == [0, 16 * 16]


def test_an_image_is_changed_the_same_in_every_batch_and_stays_itself() -> None:
    pixels = torch.randint(0, 256, (40, 16, 16, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    before, some = pixels.clone(), changes(40)
    whole = strong.change(pixels, some)
    assert torch.equal(pixels, before)
    assert whole.dtype is torch.uint8
    alone = [strong.change(pixels[i : i + 1], some[i : i + 1]) for i in range(40)]
    assert torch.equal(torch.cat(alone), whole)


def test_an_accelerator_that_computes_all_images_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, some = image().expand(200, -1, -1, -1), changes(200)
    assert set(some[:, 0].tolist()) == set(range(14))
    expected = strong.change(pixels, some)

    def all_of_them(chosen: Tensor, compute: Callable[..., Tensor], images: Tensor, *numbers: Tensor) -> Tensor:
        return torch.where(chosen.view(-1, 1, 1, 1), compute(images, *numbers), images)

    monkeypatch.setattr(strong, "_where", all_of_them)
    assert torch.equal(strong.change(pixels, some), expected)


def feed(num_views: int | None = None) -> Feed:
    return Feed(tiny.split(50), tiny.NORMALIZATION, tiny.CPU, num_views)


def epoch(of: Feed, settings: Augment, views: int = 1, size: int = 16, seed: int = 0, number: int = 3) -> Tensor:
    """The images of an epoch, sorted by position: (views, 50, 3, 16, 16)."""
    parts = list(of.train_batches(settings, seed, number, size, False, views=views))
    order = torch.cat([positions for _, _, positions in parts]).argsort()
    shown = (torch.cat(of_view) for of_view in zip(*(images.chunk(views) for images, _, _ in parts), strict=True))
    return torch.stack([images[order] for images in shown])


def test_a_strong_view_is_the_weak_one_changed() -> None:
    positions = torch.arange(50)
    weak, drawn = (augment.draw(settings, 16, 16, 0, 3, positions) for settings in (Augment(), STRONG))
    assert weak.changes.shape == (50, 0)
    assert all(torch.equal(a, b) for a, b in zip(weak[:-1], drawn[:-1], strict=True))
    cut = augment.apply(Augment(), 16, torch.from_numpy(tiny.split(50).images), weak)
    assert torch.equal(epoch(feed(), STRONG)[0], tiny.normalized(strong.change(cut, drawn.changes)))


@pytest.mark.parametrize("views", [1, 2])
def test_strong_views_hang_on_seed_epoch_and_position_alone(views: int) -> None:
    expected = epoch(feed(), STRONG, views)
    for size in (7, 50):
        assert torch.equal(epoch(feed(), STRONG, views, size), expected)
    whole, later = (list(feed().train_batches(STRONG, 0, 3, 16, False, first, views=views)) for first in (0, 2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(whole[2:], later, strict=True))
    for other in (epoch(feed(), STRONG, views, number=4), epoch(feed(), STRONG, views, seed=1)):
        assert (other == expected).flatten(2).all(2).float().mean() < 0.2
    repeated = feed(num_views=2)
    assert torch.equal(epoch(repeated, STRONG, views, seed=5, number=7), epoch(feed(), STRONG, views, number=1))


def test_of_two_views_the_first_is_the_weak_one_whatever_the_setting_says() -> None:
    both = epoch(feed(), Augment(), views=2)
    assert torch.equal(both, epoch(feed(), STRONG, views=2))
    assert torch.equal(both[0], epoch(feed(), Augment())[0])
    assert not torch.equal(both[1], epoch(feed(), STRONG)[0])


def test_two_views_are_cut_and_changed_independently() -> None:
    positions = torch.arange(50_000)
    first, second = (augment.draw(STRONG, 32, 32, 0, 0, positions, number) for number in (0, 1))
    for a, b, values in ((first.top, second.top, 9), (first.left, second.left, 9), (first.flip, second.flip, 2)):
        cells = torch.bincount(a.long() * values + b.long(), minlength=values**2)
        # 4.5 standard deviations of a Poisson count.
        assert (cells - 50_000 / values**2).abs().max() < 4.5 * (50_000 / values**2) ** 0.5
    for column in range(strong.DRAWS):
        correlation = torch.corrcoef(torch.stack([first.changes[:, column], second.changes[:, column]]))[0, 1]
        assert correlation.abs() < 4.5 / 50_000**0.5


def test_a_cache_of_the_teacher_sees_the_strong_views_too() -> None:
    shown = torch.cat(list(feed(num_views=2).view_batches(STRONG, 1, 16)))
    assert torch.equal(shown, epoch(feed(num_views=2), STRONG)[0])
