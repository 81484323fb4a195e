"""Two processes that share each batch compute what one computes on the whole of it."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.multiprocessing.spawn import start_processes
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.devices import distributed, synced_norm
from pipeline.evaluation import metrics
from pipeline.settings.data import Augment
from pipeline.settings.training import Train
from pipeline.system import registry
from pipeline.system.errors import ParamsError, TrainingError
from pipeline.training import engine
from pipeline.training import state as training_state
from pipeline.training.resume import Resume
from tests import tiny

pytestmark = pytest.mark.slow

METHODS = registry.names("pipeline.distillation")

STEEP = ("dist", "pkt", "sakd_sparse", "semckd", "sp")
"""At a learning rate of 2e-4 every step of theirs multiplies the rounding of the step before; 1e-5 holds them."""
AUGMENT = Augment(crop_padding_px=2, flip=True)

CANCELLING = {"pkt/term affinity": 2e-4, "dist/term intra": 2e-2}
"""Of 0.1 and 30: large weights times differences of nearly equal numbers."""


RECIPE = {"schedule": "cosine", "ema_decay": 0.7, "label_smoothing": 0.1, "mixup_alpha": 0.4, "cutmix_alpha": 1.0}
"""All that docs/recipes.md adds to a training of labelled images."""


def trace(name: str, folder: Path, **recipe: object) -> dict[str, Tensor]:
    """Every loss term of every step of an epoch, the validation after it, and the student's running statistics."""
    lr = 1e-5 if name in STEEP else 2e-4
    settings = Train.model_validate(
        {"epochs": 1, "batch_size": 8, "lr": lr, "milestones": (), "precision": "fp32", "drop_last": True} | recipe
    )
    terms: dict[str, list[Tensor]] = {}
    add = training_state.Tally.add

    def noting(self: training_state.Tally, names: list[str], values: Tensor, correct: Tensor, images: int) -> None:
        for term, value in zip(names, values, strict=True):
            terms.setdefault(f"{name}/term {term}", []).append(value)
        add(self, names, values, correct, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_state.Tally, "add", noting)
        patch.setattr(tiny, "IMAGE_PX", 32)  # of smaller maps the means are rounded too differently
        method = tiny.method(name)
        resume = Resume(folder / f"{'-'.join([name, *recipe])}.state", "key")
        train = tiny.feed()
        train.unlabelled = tiny.feed(40, seed=2) if settings.unlabelled_share else None
        result = engine.fit(
            method, train, tiny.feed(33, seed=1), settings, AUGMENT, 0, resume, on_epoch=lambda record: None
        )
    found = {key: torch.stack(values) for key, values in terms.items()}
    found |= {
        f"{name}/{key}": value
        for key, value in method.state_dict().items()
        if key.startswith("student.") and ".running_" in key
    }
    (record,) = result.history
    if "attention" in record:
        found[f"{name}/attention"] = torch.tensor(record["attention"]["weights"])
    return found | {f"{name}/val nll": torch.tensor(record["val"]["nll"])}


def in_group(rank: int, folder: Path, count: int) -> None:
    """One of `count` processes: leave everything that it computes."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "PUPIL_STORE": str(folder / "store")}
    with distributed.joined():
        save_file(everything(folder), folder / f"result-{rank}")


def everything(folder: Path) -> dict[str, Tensor]:
    """All that is compared, in one group: starting one takes seconds."""
    disagree()
    found = batch_norms() | {"predictions": predictions()}
    for name in METHODS:
        found |= trace(name, folder)
    found |= {f"recipe {key}": value for key, value in trace("norm", folder, **RECIPE).items()}
    found |= {f"unlabelled {key}": value for key, value in trace("kd", folder, unlabelled_share=0.5).items()}
    return {key: value.contiguous() for key, value in found.items()}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """What each of two processes got."""
    folder = tmp_path_factory.mktemp("group")
    start_processes(in_group, (folder, 2), 2)  # type: ignore[no-untyped-call]
    return [load_file(folder / f"result-{rank}") for rank in range(2)]


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_train_as_one_does(name: str, both: list[dict[str, Tensor]], tmp_path: Path) -> None:
    for key, expected in trace(name, tmp_path).items():
        atol = CANCELLING.get(key, 1e-4)
        for came in both:
            torch.testing.assert_close(
                came[key], expected, rtol=1e-4, atol=atol, msg=lambda text, k=key: f"{k}: {text}"
            )


def test_two_processes_follow_a_recipe_as_one_does(both: list[dict[str, Tensor]], tmp_path: Path) -> None:
    for key, expected in trace("norm", tmp_path, **RECIPE).items():
        for came in both:
            torch.testing.assert_close(came[f"recipe {key}"], expected, rtol=1e-4, atol=1e-4)


def test_two_processes_share_images_without_labels(both: list[dict[str, Tensor]], tmp_path: Path) -> None:
    for key, expected in trace("kd", tmp_path, unlabelled_share=0.5).items():
        for came in both:
            torch.testing.assert_close(came[f"unlabelled {key}"], expected, rtol=1e-4, atol=1e-4)


def batch_norms() -> dict[str, Tensor]:
    """Outputs, running statistics and gradients of BNs over this process's part of one batch."""
    maps = torch.randn(8, 5, 6, 6, generator=torch.Generator().manual_seed(0)) * 2 + 1
    found = {}
    for kind, layer in (("2d", torch.nn.BatchNorm2d(5)), ("1d", torch.nn.BatchNorm1d(5)), ("bare", None)):
        x = distributed.own_rows(maps if kind == "2d" else maps[:, :, 0, 0]).clone().requires_grad_()
        with synced_norm.synced(True):
            out = layer(x) if layer is not None else functional.batch_norm(x, None, None, training=True)
        (out.square() + out).mul(torch.arange(1.0, 6).view(5, *[1] * (out.dim() - 2))).sum().backward()
        assert x.grad is not None
        found |= {f"{kind} out": distributed.gather(out.detach()), f"{kind} grad": distributed.gather(x.grad)}
        if layer is not None:
            found |= {f"{kind} {name}": buffer for name, buffer in layer.named_buffers()}
            for name, parameter in layer.named_parameters():
                # After the backward pass each process holds the gradient of its own part.
                assert parameter.grad is not None
                found[f"{kind} {name}"] = distributed.gather(parameter.grad.unsqueeze(0)).sum(0)
    return found


def test_a_norm_of_two_processes_is_the_norm_of_the_whole_batch(both: list[dict[str, Tensor]]) -> None:
    for key, expected in batch_norms().items():
        for came in both:
            torch.testing.assert_close(came[key], expected, rtol=1e-5, atol=1e-4, msg=key)


def test_the_gradient_hands_cuda_the_statistics_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's kernel takes the mean and the inverse deviation that the forward used; the CPU's takes the others."""
    seen = []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten.native_batch_norm_backward.default:
                seen.append(args)
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(distributed, "gather", lambda parts: parts)
    monkeypatch.setattr(synced_norm.dist, "all_reduce", lambda sums: None)
    maps = torch.randn(4, 3, 5, 5).requires_grad_()
    with Watching():
        normed = synced_norm._batch_norm(maps, None, None, training=True)
        normed.square().sum().backward()
    mean, inverse_std = seen[0][5:7]
    torch.testing.assert_close(mean, maps.detach().mean((0, 2, 3)))
    torch.testing.assert_close(inverse_std, (maps.detach().var((0, 2, 3), correction=0) + 1e-5).rsqrt())
    plain = maps.detach().clone().requires_grad_()
    functional.batch_norm(plain, None, None, training=True).square().sum().backward()
    torch.testing.assert_close(maps.grad, plain.grad, rtol=1e-3, atol=1e-5)


def predictions() -> Tensor:
    """Logits of five batches, the last one of a single image."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "batch_size", lambda image_px: 8)
        return metrics.predict(tiny.network(), tiny.feed(33))[0]


def test_two_processes_predict_in_the_same_batches_and_so_to_the_same_bits(both: list[dict[str, Tensor]]) -> None:
    # As those have it: sums are taken in another order by more threads.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    expected = predictions()
    torch.set_num_threads(threads)
    assert all(torch.equal(came["predictions"], expected) for came in both)


def disagree() -> None:
    """What must be the same and is not; what one process alone knows. Raises in the group, and so in the fixture."""
    distributed.check_same("a thing that is the same", "same")
    with pytest.raises(TrainingError, match="differ in the data: it is not the same as in process 0 in these: 1"):
        distributed.check_same("the data", str(distributed.rank()))
    with pytest.raises(ParamsError, match="equal parts of each batch, but an epoch would have a batch of 7 images"):
        distributed.check_batches({8, 7}, distributed.world())
    assert not distributed.anybody(False)
    assert distributed.anybody(distributed.rank() == 1)


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_a_split_of_any_length_is_whole_again(processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world", lambda: processes)
    for images in range(1, 12):
        rows, blocks = torch.arange(images), []
        for rank in range(processes):
            monkeypatch.setattr(distributed, "rank", lambda r=rank: r)
            blocks.append(rows[distributed.share(images)])
        monkeypatch.setattr(distributed, "gather", lambda block, b=tuple(blocks): torch.cat(b))
        assert distributed.whole_split(blocks[0], images).tolist() == rows.tolist()
