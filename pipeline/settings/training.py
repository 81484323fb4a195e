"""params.yaml, teacher.train and distill.train: how a network is trained."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.settings.section import Positive, Section


class Train(Section):
    """How a network is trained: SGD, and a learning rate that drops at milestones; docs/recipes.md has the rest."""

    epochs: Positive = 240
    """Passes over the training images."""
    batch_size: Positive = 64
    """Images of one step, over all processes."""
    lr: Annotated[float, Field(gt=0)] = 0.05
    """The highest of the schedule."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of SGD: share of the last step that is taken again."""
    nesterov: bool = False
    """Look ahead along the momentum (Nesterov); needs some."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """On all parameters, those of BN and biases too, as in the published recipes."""
    schedule: Literal["milestones", "cosine", "one_cycle"] = "milestones"
    """How the learning rate moves: in drops, down along half a cosine, or up and down again; the last two by steps."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    """The learning rate grows linearly over these epochs, step by step. one_cycle has a rise of its own."""
    base_momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Of one_cycle: momentum falls from `momentum` to this and climbs back, against the learning rate; null: stays."""
    milestones: tuple[Annotated[float, Field(gt=0)], ...] = (150, 180, 210)
    """After this many epochs the learning rate is multiplied by `decay`. Below 1: a fraction of `epochs`."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.1
    """What the learning rate is multiplied by at each milestone."""
    reset_momentum: bool = False
    """Forget the momentum at each milestone, as codes do that build a new optimiser there."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each label that is spread evenly over all classes, in the cross-entropy with the labels."""
    mixup_alpha: Annotated[float, Field(ge=0)] = 0.0
    """Above 0, images are mixed in pairs with shares of Beta(alpha, alpha); a teacher sees the same mixtures."""
    cutmix_alpha: Annotated[float, Field(ge=0)] = 0.0
    """Above 0, a box of another image is put in, with such a share. With mixup too, each image has one of the two."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Validate and ship a moving average of the weights, of about the last 1 / (1 - ema_decay) steps; null: none."""
    drop_last: bool = False
    """Leave out the last batch of an epoch where it is smaller than the others."""
    compile: bool = False
    """Compile networks and losses with torch.compile: faster steps after a minute or more, and other last bits."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Networks compute in this; losses are always fp32. auto: bf16 where the processor has it."""
    select: Literal["last", "best"] = "last"
    """Which epoch ships: the last one, or the best on the validation split (never the test split)."""
    processes: Positive = 1
    """How many processes of this machine share each batch; the results are the same but for rounding. With GPUs, one
    each. For several machines, start the stage by torchrun instead, which decides their number."""
    sync_bn: bool = True
    """With several processes, BN sees the whole batch. false: each its own part, faster, and with other results."""

    @model_validator(mode="after")
    def _processes_take_equal_parts(self) -> "Train":
        if self.batch_size % self.processes:
            raise ValueError(
                f"a batch_size of {self.batch_size} cannot be divided equally among {self.processes} processes"
            )
        if self.compile and self.processes > 1:
            raise ValueError("compile: true works with one process only; set it to false, or processes to 1")
        return self

    @model_validator(mode="after")
    def _settings_fit_together(self) -> "Train":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: true needs a momentum above 0")
        if self.reset_momentum and self.schedule != "milestones":
            raise ValueError(
                f"reset_momentum acts at milestones, but schedule: {self.schedule} has none; set it to false"
            )
        if self.schedule == "one_cycle" and self.warmup_epochs:
            raise ValueError("schedule: one_cycle has a warm-up of its own; set warmup_epochs to 0")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs: {self.warmup_epochs} leaves none of the {self.epochs} epochs; lower it")
        if self.base_momentum is not None and self.schedule != "one_cycle":
            raise ValueError(f"base_momentum belongs to schedule: one_cycle, not {self.schedule}; set it to null")
        if self.base_momentum is not None and self.base_momentum > self.momentum:
            raise ValueError(f"base_momentum is the lowest momentum and cannot be above momentum: {self.momentum}")
        return self

    @property
    def mixes(self) -> bool:
        """Whether images show more than one."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0
