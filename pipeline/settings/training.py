"""params.yaml, teacher.train and distill.train: how a network is trained."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.settings.section import Positive, Section


class Train(Section):
    """How a network is trained: SGD, by default at a learning rate that drops at milestones; see docs/recipes.md."""

    epochs: Positive = 240
    """Number of passes over the training images."""
    batch_size: Positive = 64
    """Number of images in one training step, over all processes."""
    lr: Annotated[float, Field(gt=0)] = 0.05
    """Learning rate. If the schedule changes it, this is the highest value."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum factor of SGD: the share of its momentum buffer that is kept from one step to the next."""
    nesterov: bool = False
    """Whether to use Nesterov momentum, which needs a `momentum` above 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """Weight decay (L2 penalty) of SGD. It applies to all parameters, including biases and those of batch
    normalisation, as in the published recipes."""
    schedule: Literal["milestones", "cosine", "one_cycle"] = "milestones"
    """How the learning rate changes: `milestones` multiplies it by `decay` at each milestone, `cosine` lowers it along
    half a cosine, `one_cycle` raises it and lowers it again. The last two change it after every step."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    """Number of epochs over which the learning rate first grows linearly, step by step. `one_cycle` has a warm-up of
    its own."""
    base_momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    """For `schedule: one_cycle`: the lowest momentum. Momentum is cycled inversely to the learning rate, from
    `momentum` down to this value and back. null: momentum stays constant."""
    milestones: tuple[Annotated[float, Field(gt=0)], ...] = (150, 180, 210)
    """Epochs after which the learning rate is multiplied by `decay`. A value below 1 is a fraction of `epochs`."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Factor by which the learning rate is multiplied at each milestone."""
    reset_momentum: bool = False
    """Whether to reset the momentum buffers at each milestone, as code does that creates a new optimiser there."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Amount of label smoothing in the cross-entropy with the labels: the share of each label that is spread evenly
    over all classes."""
    mixup_alpha: Annotated[float, Field(ge=0)] = 0.0
    """Mixup: above 0, images are mixed in pairs, with shares drawn from Beta(alpha, alpha). The teacher sees the same
    mixtures. 0 switches it off."""
    cutmix_alpha: Annotated[float, Field(ge=0)] = 0.0
    """CutMix: above 0, a box of another image is pasted in, and the area of the box follows a share drawn from
    Beta(alpha, alpha). With mixup too, each image gets one of the two. 0 switches it off."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average (EMA) of the weights, which is then validated and shipped. It averages
    over about the last 1 / (1 - ema_decay) steps. null: no average."""
    unlabelled_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Only for students: share of every batch that are images of `data.unlabelled`. The teacher's terms are of all
    images, cross-entropy is of the labelled ones. An epoch remains one pass over the labelled images, so that it has
    more steps. 0 leaves the other images out."""
    drop_last: bool = False
    """Whether to leave out the last batch of an epoch if it is smaller than the others. false: it is trained on. Where
    it is too small for the network or the method to learn from, its images go with the batch before it."""
    compile: bool = False
    """Whether to compile networks and losses with torch.compile. Compilation takes a minute or more, then steps are
    faster; results differ in their last bits."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format in which the networks compute; losses are always computed in fp32. `auto` is bf16 if the processor
    or GPU supports it, else fp32. fp32 is IEEE single precision on a GPU too, never TF32. Evaluation always computes in
    fp32."""
    select: Literal["last", "best"] = "last"
    """Which epoch is shipped: the last one, or the best one on the validation split (never on the test split)."""
    processes: Positive = 1
    """Number of processes on this machine that share each batch. The results are the same except for rounding. With
    GPUs, each process has one. For several machines, start the stage with torchrun instead, which sets their number."""
    sync_bn: bool = True
    """Whether batch normalisation uses the statistics of the whole batch if several processes share it. false: each
    process uses those of its own part, which is faster and gives other results."""

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

    @model_validator(mode="after")
    def _batches_hold_images_of_both_kinds(self) -> "Train":
        if not self.unlabelled_share:
            return self
        said = f"unlabelled_share: {self.unlabelled_share:g} of a batch_size of {self.batch_size}"
        if self.labelled_size < 1 or self.unlabelled_size < 1:
            kind = "labelled" if self.labelled_size < 1 else "unlabelled"
            raise ValueError(f"{said} leaves no {kind} image in a batch; raise batch_size, or change the share")
        if self.unlabelled_size % self.processes:
            raise ValueError(
                f"{said} is {self.unlabelled_size} images, which cannot be divided equally among {self.processes} "
                "processes"
            )
        if self.mixes:
            raise ValueError(
                "mixup_alpha and cutmix_alpha share labels between two images, which images without labels do not "
                "have; set both to 0, or unlabelled_share to 0"
            )
        return self

    @property
    def unlabelled_size(self) -> int:
        """Images without labels in a whole batch."""
        return round(self.unlabelled_share * self.batch_size)

    @property
    def labelled_size(self) -> int:
        """Images of the training set in a whole batch."""
        return self.batch_size - self.unlabelled_size

    @property
    def mixes(self) -> bool:
        """Whether images show more than one."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0
