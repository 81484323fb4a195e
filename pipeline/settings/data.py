"""params.yaml, sections data and augment: where images come from, how they are stored, how they are changed."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.settings.section import Section, Seed

Channels = tuple[float, float, float]
Share = Annotated[float, Field(gt=0, le=1)]
Ratio = Annotated[float, Field(ge=0.1, le=10)]


class Normalization(Section):
    """Per-channel statistics, of pixels scaled to [0, 1]: images = (pixels / 255 - mean) / std."""

    mean: Channels
    """Of red, green and blue."""
    std: Channels
    """Of red, green and blue; above 0."""

    @model_validator(mode="after")
    def _std_is_positive(self) -> "Normalization":
        if min(self.std) <= 0:
            raise ValueError("every std must be above 0")
        return self


class Data(Section):
    """Where images come from and how they are stored (stage prepare)."""

    source: str = "digit_pairs"
    """A file of pipeline/sources: digit_pairs, cifar, folder, huggingface, stanford40; docs/data-sources.md."""
    path: str | None = None
    """Folder with the images, for sources that read one; for huggingface also an id on the Hub."""
    image_px: Annotated[int, Field(ge=8, le=1024)] = 32
    """Height and width of the images that the networks see."""
    storage_px: Annotated[int, Field(ge=8, le=2048)] | None = None
    """Height and width of the images on disk; training cuts image_px out of them at random, evaluation out of their
    middle. null: image_px."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of train set aside for validation, drawn class by class."""
    train_includes_val: bool = False
    """Train on the validation images too, as the last step before shipping, or where a paper trained on all images.
    Validation figures are then of images seen in training, and `select: best` is refused."""
    normalization: Normalization | None = None
    """What images are normalised by; null: the mean and std of the train split."""
    on_bad: Literal["fail", "skip"] = "fail"
    """What an image that is missing, empty, unreadable or truncated does: end prepare, or be left out."""
    leaks: Literal["report", "drop"] = "report"
    """What an image of train does whose exact pixels stand in val or test: be reported, or be left out. So for an image
    of val that stands in test; test stays as it is, so that its figures can be compared."""
    seed: Seed = 0
    """Draws the splits that a source lacks, and the images of sources that make them."""
    sources: dict[str, dict[str, Any]] = Field(default={})
    """Settings of each source by its name; only the chosen one is read."""

    @property
    def stored_px(self) -> int:
        """Height and width of the images on disk."""
        return self.storage_px or self.image_px

    @model_validator(mode="after")
    def _stored_images_are_large_enough(self) -> "Data":
        if self.stored_px < self.image_px:
            raise ValueError(f"storage_px {self.storage_px} must not be less than image_px {self.image_px}")
        return self


class Augment(Section):
    """Random changes of training images, drawn from (seed, epoch, position) and so repeatable."""

    crop: Literal["padded", "resized"] = "padded"
    """data.image_px of the stored image: as they are, at a random place of the padded image; or out of a box of random
    size and shape, scaled."""
    crop_padding_px: Annotated[int, Field(ge=0, le=64)] = 4
    """Of crop padded: pad the stored image by this much. Where storage_px is image_px, 0 switches the crop off."""
    pad_mode: Literal["zeros", "reflect"] = "zeros"
    """What the padding holds: black, or the mirrored image."""
    crop_scale: tuple[Share, Share] = (0.08, 1.0)
    """Of crop resized: least and greatest area of the box, as a share of the image's."""
    crop_ratio: tuple[Ratio, Ratio] = (3 / 4, 4 / 3)
    """Of crop resized: least and greatest width of the box, as a share of its height."""
    flip: bool = True
    """Mirror left and right at random. Off for writing and digits."""

    @model_validator(mode="after")
    def _ranges_are_in_order(self) -> "Augment":
        for name in ("crop_scale", "crop_ratio"):
            least, greatest = getattr(self, name)
            if least > greatest:
                raise ValueError(f"{name} is [{least:g}, {greatest:g}], but the smaller number must come first")
        return self
