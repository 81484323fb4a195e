"""What is said of a network: one evaluation path, for the validation during training and for the final test alike."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline import distributed
from pipeline.data.feed import Feed

Scores = dict[str, float]


@torch.inference_mode()
def predict(model: nn.Module, feed: Feed, batch_size: int) -> tuple[Tensor, Tensor]:
    """logits (N, K) and labels (N,) of a whole split, in float32, the model in eval mode while it lasts.

    Where several processes train, each computes a block of the split, and all get the whole.
    """
    training = model.training
    model.eval()
    block = distributed.share(len(feed))
    parts = [model(images).float() for images, _ in feed.eval_batches(batch_size, block.start, block.stop)]
    model.train(training)
    return distributed.whole_split(torch.cat(parts), len(feed)), feed.labels


def classification(logits: Tensor, labels: Tensor, ece_bins: int = 15) -> Scores:
    """top1 and top5 in percent, nll in nats, ece in [0, 1]. top5 is top-K where there are fewer than 5 classes."""
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels.unsqueeze(1)
    return {
        "top1": 100 * ranked[:, 0].double().mean().item(),
        "top5": 100 * ranked.any(1).double().mean().item(),
        "nll": functional.cross_entropy(logits.double(), labels).item(),
        "ece": expected_calibration_error(logits, labels, ece_bins),
    }


def expected_calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """sum over bins of (share of images) * |accuracy - mean confidence|, in [0, 1].

    Bins of equal width over the confidence of the predicted class, each open below and closed above.
    Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    correct = (predicted == labels).double()
    index = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64, device=logits.device)
    gap.index_add_(0, index, correct - confidence)
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
