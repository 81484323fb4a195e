"""Whether a simulation computes what its file computes: the one step that a tie may cost, and no more.

Both round the same numbers, but not in the same order of float operations. Where a number lies half-way between two
bytes, to float32's last bits, one may take the upper byte and the other the lower one, and later layers carry that on.
So logits of some images differ, and a logit may differ by at most what it moves when every byte in front of the last
product moves by one step. Two logits that lie closer together than that are a tie.
"""

from typing import Any

from torch import Tensor

from pipeline.system.errors import ParityError


def check_simulation(simulated: Tensor, deployed: Tensor, allowed: Tensor) -> dict[str, Any]:
    """Compare logits (N, K) of both on the same images; `allowed` (K,) is `Simulated.one_step`.

    Returns images, identical_percent (of the images, to float32's rounding), max_logit_error, and of_allowed: the
    largest error of a logit as a share of what is allowed. Raises ParityError where that is more than 1.
    """
    errors = (simulated - deployed).abs()
    share = (errors / allowed).amax().item()
    same = (errors <= 1e-5 * deployed.abs().amax()).all(1)
    record = {
        "images": len(errors),
        "identical_percent": 100 * same.double().mean().item(),
        "max_logit_error": errors.amax().item(),
        "of_allowed": share,
    }
    if not share <= 1:
        turned = int((simulated.argmax(1) != deployed.argmax(1)).sum())
        raise ParityError(
            f"the int8 file's logits differ from its simulation's by up to {record['max_logit_error']:.3g}, "
            f"{share:.3g} times what one step of the bytes before the last product makes; {turned} of {len(errors)} "
            "images get another answer. If quantize.reduce_range is false and this processor has no VNNI, its sums "
            "overflow: set it to null or true. Otherwise set quantize.train to null, and report this network."
        )
    return record
