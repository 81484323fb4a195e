"""What is said of a network: one evaluation path, for the validation during training and for the final test alike."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.feed import Feed, num_batches
from pipeline.devices import distributed
from pipeline.devices.precision import place

Scores = dict[str, float]

ECE_BINS = 15
"""Of confidence, in the calibration error and in the reliability diagram."""
_BATCH_PIXELS = 2**22
_BATCH_IMAGES = 256


def batch_size(image_px: int) -> int:
    """Images at a time where nothing is trained: 256, fewer of large ones."""
    return max(1, min(_BATCH_IMAGES, _BATCH_PIXELS // image_px**2))


def predict(model: nn.Module, feed: Feed) -> tuple[Tensor, Tensor]:
    """logits (N, K) float32 and labels (N,) of a whole split, on the host, the model in eval mode while it lasts.

    Batches and layout follow from the images alone: the last bits of a logit depend on both, and the same weights are
    to give the same figures in training and ever after. Where several processes train, each computes some of the same
    batches, and all get the whole.
    """
    place(model, feed.device)
    training = model.training
    model.eval()
    size = batch_size(feed.image_px)
    batches = num_batches(len(feed), size, drop_last=False)
    own = distributed.share(batches)
    end = min(own.stop * size, len(feed))
    with torch.inference_mode():
        parts = [model(images).float() for images, _ in feed.eval_batches(size, own.start * size, end)]
    model.train(training)
    rows = torch.cat(parts)
    # Processes hand over equal numbers of rows, and the last batch of all may be smaller than the others.
    rows = functional.pad(rows, (0, 0, 0, (own.stop - own.start) * size - len(rows)))
    whole = distributed.whole_split(rows.view(-1, size, rows.shape[1]), batches).flatten(0, 1)
    return whole[: len(feed)].cpu(), feed.labels.cpu()


def classification(logits: Tensor, labels: Tensor) -> Scores:
    """top1 and top5 in percent, nll in nats, ece in [0, 1]. top5 is top-K where there are fewer than 5 classes.

    Among equal logits the lower class number comes first, as it does for argmax.
    """
    classes, own = logits.shape[1], logits.gather(1, labels.unsqueeze(1))
    higher = torch.arange(classes, device=logits.device) > labels.unsqueeze(1)
    # Counted from behind: nothing lies behind a logit that is no number, so that it never counts as right.
    before = classes - 1 - ((logits < own) | ((logits == own) & higher)).sum(1)
    return {
        "top1": 100 * (before < 1).double().mean().item(),
        "top5": 100 * (before < 5).double().mean().item(),
        "nll": functional.cross_entropy(logits.double(), labels).item(),
        "ece": expected_calibration_error(logits, labels),
    }


def answers(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The predicted class (N,) int64 of each row, and its probability (N,) float64."""
    predicted = logits.argmax(1)
    return predicted, logits.double().softmax(1).gather(1, predicted.unsqueeze(1)).squeeze(1)


def confidence_bins(confidence: Tensor) -> Tensor:
    """In which of ECE_BINS equal parts of [0, 1] a probability (N,) lies, each open below and closed above: (N,)."""
    return (confidence * ECE_BINS).ceil().long().sub(1).clamp(0, ECE_BINS - 1)


def expected_calibration_error(logits: Tensor, labels: Tensor) -> float:
    """sum over bins of (share of images) * |accuracy - mean confidence|, in [0, 1], by the predicted class.

    Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
    """
    predicted, confidence = answers(logits)
    gap = torch.zeros(ECE_BINS, dtype=torch.float64, device=logits.device)
    gap.index_add_(0, confidence_bins(confidence), (predicted == labels).double() - confidence)
    return (gap.abs().sum() / len(labels)).item()


def agreement(student: Tensor, teacher: Tensor) -> Scores:
    """How far the student says what the teacher says, of logits (N, K): same top-1 in percent, mean KL in nats."""
    same = (student.argmax(1) == teacher.argmax(1)).double().mean().item()
    log_s, log_t = student.double().log_softmax(1), teacher.double().log_softmax(1)
    divergence = functional.kl_div(log_s, log_t, reduction="batchmean", log_target=True).item()
    return {"top1_agreement": 100 * same, "kl_from_teacher": divergence}


def mean_and_spread(values: list[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (null for one value) and count."""
    tensor = torch.tensor(values, dtype=torch.float64)
    spread = tensor.std().item() if len(values) > 1 else None
    return {"mean": tensor.mean().item(), "std": spread, "n": len(values)}
