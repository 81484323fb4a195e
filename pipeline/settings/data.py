"""params.yaml, sections data and augment: where images come from, how they are stored, how they are changed."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.settings.section import HomePath, Section, Seed

Channels = tuple[float, float, float]
Share = Annotated[float, Field(gt=0, le=1)]
Ratio = Annotated[float, Field(ge=0.1, le=10)]


class Normalization(Section):
    """Statistics of each channel for pixels scaled to [0, 1]: images = (pixels / 255 - mean) / std."""

    mean: Channels
    """Means of red, green and blue."""
    std: Channels
    """Standard deviations of red, green and blue, each above 0."""

    @model_validator(mode="after")
    def _std_is_positive(self) -> "Normalization":
        if min(self.std) <= 0:
            raise ValueError("every std must be above 0")
        return self


class Data(Section):
    """Where images come from and how they are stored (stage prepare)."""

    source: str = "digit_pairs"
    """Name of a file in pipeline/sources: digit_pairs, cifar, folder, huggingface or stanford40. docs/data-sources.md
    describes each."""
    path: HomePath | None = None
    """Folder with the images, for sources that read one. For huggingface it may also be an id on the Hub."""
    image_px: Annotated[int, Field(ge=8, le=1024)] = 32
    """Height and width of the images that the networks see."""
    storage_px: Annotated[int, Field(ge=8, le=2048)] | None = None
    """Height and width of the images on disk. Training cuts squares of `image_px` out of them at random places,
    evaluation cuts them out of the middle. null: the same as `image_px`."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the train split that is set aside for validation, drawn class by class."""
    train_includes_val: bool = False
    """Whether to train on the validation images too, as the last step before shipping, or because a paper trained on
    all images. Validation figures are then figures on images seen in training, and `select: best` is refused."""
    normalization: Normalization | None = None
    """Mean and std by which images are normalised. null: those of the train split."""
    on_bad: Literal["fail", "skip"] = "fail"
    """What happens if an image is missing, empty, unreadable or truncated: `fail` ends the stage prepare with an error,
    `skip` leaves the image out."""
    leaks: Literal["report", "drop"] = "report"
    """What happens to an image of train whose exact pixels are in val or test too, and to an image of val whose pixels
    are in test: `report` only reports it, `drop` leaves it out. The test split never changes, so that its figures can
    be compared."""
    unlabelled: HomePath | None = None
    """Folder with images without labels, at any depth, from which students learn by `distill.train.unlabelled_share`.
    Copies of images of train, val and test are always left out. null: none."""
    seed: Seed = 0
    """Seed of the splits that are drawn because a source lacks them, and of the images that digit_pairs makes."""
    sources: dict[str, dict[str, Any]] = Field(default={})
    """Settings of each source, by its name. Only those of the chosen source are read."""

    @property
    def stored_px(self) -> int:
        """Height and width of the images on disk."""
        return self.storage_px or self.image_px

    @model_validator(mode="after")
    def _stored_images_are_large_enough(self) -> "Data":
        if self.stored_px < self.image_px:
            raise ValueError(f"storage_px {self.storage_px} must not be less than image_px {self.image_px}")
        return self


def validation_label(name: str, seen: bool) -> str:
    """What the validation split is called beside a figure: `name`, and what to know of it where it was trained on."""
    return f"{name} (images seen in training)" if seen else name


class Augment(Section):
    """Random changes of training images. They are drawn from (seed, epoch, position), so that they can be repeated."""

    crop: Literal["padded", "resized"] = "padded"
    """How `data.image_px` pixels are cut out of the stored image: `padded` pads it and cuts a square at a random place,
    without scaling; `resized` cuts a box of random size and shape and scales it."""
    crop_padding_px: Annotated[int, Field(ge=0, le=64)] = 4
    """For `crop: padded`: number of pixels by which the stored image is padded on each side. If storage_px equals
    image_px, 0 switches the crop off."""
    pad_mode: Literal["zeros", "reflect"] = "zeros"
    """What the padding is filled with: `zeros` is black, `reflect` the mirrored image."""
    crop_scale: tuple[Share, Share] = (0.08, 1.0)
    """For `crop: resized`: smallest and largest area of the box, as a share of the area of the image."""
    crop_ratio: tuple[Ratio, Ratio] = (3 / 4, 4 / 3)
    """For `crop: resized`: smallest and largest aspect ratio of the box, which is its width divided by its height."""
    flip: bool = True
    """Whether to flip images horizontally at random. Switch it off for writing and digits."""
    strong: bool = False
    """Whether to change colours and shapes too, of the teacher's images and of the students': two of 14 operations
    (contrast, colour, sharpness, rotation, shear, ...) and a grey box, after crop and flip; see docs/recipes.md.
    Methods of two views always see a weak and a strong one."""

    @model_validator(mode="after")
    def _ranges_are_in_order(self) -> "Augment":
        for name in ("crop_scale", "crop_ratio"):
            least, greatest = getattr(self, name)
            if least > greatest:
                raise ValueError(f"{name} is [{least:g}, {greatest:g}], but the smaller number must come first")
        return self
