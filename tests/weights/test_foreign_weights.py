"""Weights from elsewhere: each kind of file as its own tool writes it, taken or refused as it should be."""

import argparse
import copy
import functools
import json
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from timm.models import _hub as timm_hub
from timm.utils import CheckpointSaver, ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pipeline.models import checkpoint
from pipeline.models.base import Classifier
from pipeline.settings.data import Normalization
from pipeline.system.errors import CheckpointError, PupilError
from pipeline.weights import foreign_weights, weight_files
from tests import tiny
from tests.models import test_checkpoint

ARCH = "timm/test_resnet"
OTHER = Normalization(mean=(0.1, 0.2, 0.3), std=(0.3, 0.2, 0.1))
TIMM = Normalization(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""Of timm's weights for ARCH."""
IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@functools.cache
def network(arch: str = ARCH, classes: int = tiny.CLASSES, seed: int = 0) -> Classifier:
    """With BN statistics that are not the initial ones."""
    model = tiny.network(arch, classes, seed)
    model.train()(torch.randn(16, 3, 64, 64))
    return model.eval()


def net() -> Any:
    """What timm makes of ARCH, without this project's contract around it."""
    return copy.deepcopy(network().net)


def state() -> dict[str, Tensor]:
    """Its weights by timm's names."""
    return dict(net().state_dict())


def other_state() -> dict[str, Tensor]:
    return dict(network(seed=1).net.state_dict())


def renamed(change: Callable[[str], str]) -> dict[str, Tensor]:
    return {change(name): tensor for name, tensor in state().items()}


# Taken ----------------------------------------------------------------------------------------------------------------


def timm_safetensors(folder: Path) -> Path:
    save_file(state(), folder / "model.safetensors")
    return folder / "model.safetensors"


def timm_folder(folder: Path) -> Path:
    own = net()
    own.pretrained_cfg = own.pretrained_cfg | {"mean": OTHER.mean, "std": OTHER.std}
    timm_hub.save_for_hf(own, folder, safe_serialization="both")
    return folder


def timm_trainer(folder: Path) -> Path:
    """The average is the network; the trained weights beside it are others."""
    trained = copy.deepcopy(network(seed=1).net)
    optimizer = torch.optim.Adam(trained.parameters())
    for parameter in trained.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    average = ModelEmaV3(net())
    saver = CheckpointSaver(
        trained,
        optimizer,
        args=argparse.Namespace(model="test_resnet", lr=0.1),
        model_ema=average,
        checkpoint_dir=str(folder),
        recovery_dir=str(folder),
    )
    saver.save_checkpoint(epoch=3, metric=80.0)
    return folder / "last.pth.tar"


def imagenet_example(folder: Path) -> Path:
    """What PyTorch's own example of ImageNet leaves."""
    saved = {"epoch": 9, "arch": "resnet18", "state_dict": nn.DataParallel(net()).state_dict()}
    path = folder / "model_best.pth.tar"
    torch.save(saved | {"best_acc1": torch.tensor(70.1), "optimizer": {"state": {0: {"m": torch.ones(3)}}}}, path)
    return path


def plain_state(folder: Path) -> Path:
    torch.save(state(), folder / "weights.pth")
    return folder / "weights.pth"


def old_format(folder: Path) -> Path:
    torch.save({"model": state()}, folder / "weights.pth", _use_new_zipfile_serialization=False)
    return folder / "weights.pth"


def compiled(folder: Path) -> Path:
    """As torch.compile names what it wraps."""
    torch.save(renamed(lambda name: f"_orig_mod.{name}"), folder / "weights.pt")
    return folder / "weights.pt"


def compiled_and_distributed(folder: Path) -> Path:
    torch.save({"model": renamed(lambda name: f"module._orig_mod.{name}")}, folder / "weights.pt")
    return folder / "weights.pt"


def lightning(folder: Path) -> Path:
    saved = {"epoch": 1, "global_step": 2, "pytorch-lightning_version": "2.5", "hyper_parameters": {"lr": 0.1}}
    tensors = renamed(lambda name: f"model.{name}") | {"criterion.weight": torch.ones(4)}
    torch.save(saved | {"state_dict": tensors, "optimizer_states": [{}]}, folder / "last.ckpt")
    return folder / "last.ckpt"


def averaged(folder: Path) -> Path:
    torch.save(AveragedModel(net()).state_dict(), folder / "swa.pth")
    return folder / "swa.pth"


def without_counters(folder: Path) -> Path:
    kept = {name: tensor for name, tensor in state().items() if not name.endswith("num_batches_tracked")}
    save_file(kept, folder / "old.safetensors")
    return folder / "old.safetensors"


def shards(folder: Path) -> Path:
    """Of a large model on the Hub, as transformers saves it, with its own preprocessing beside it."""
    tensors = renamed(lambda name: f"timm_model.{name}")
    halves = sorted(tensors)[::2], sorted(tensors)[1::2]
    index = {}
    for number, names in enumerate(halves, start=1):
        shard = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, folder / shard, metadata={"format": "pt"})
        index |= dict.fromkeys(names, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "config.json").write_text(
        json.dumps(
            {
                "architecture": "test_resnet",
                "model_type": "timm_wrapper",
                "id2label": {str(k): name for k, name in enumerate(tiny.card().labels)},
            }
        )
    )
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": OTHER.mean, "image_std": OTHER.std}))
    return folder


def backbone(folder: Path) -> Path:
    """A backbone within a module, and its last layer beside it, under another name."""
    tensors = renamed(lambda name: name.replace("fc.", "head.1.") if name.startswith("fc.") else f"backbone.{name}")
    torch.save({"state_dict": tensors}, folder / "weights.pth")
    return folder / "weights.pth"


def dropout_before_the_last_layer(folder: Path) -> Path:
    own = net()
    own.fc = nn.Sequential(nn.Dropout(0.2), own.fc)
    torch.save(own.state_dict(), folder / "weights.pth")
    return folder / "weights.pth"


def auxiliary(folder: Path) -> Path:
    torch.save(state() | {"AuxLogits.fc.weight": torch.ones(4, 64)}, folder / "weights.pth")
    return folder / "weights.pth"


def bin_folder(folder: Path) -> Path:
    torch.save(state(), folder / "pytorch_model.bin")
    torch.save({"seed": 0}, folder / "training_args.bin")
    return folder


def the_only_file(folder: Path) -> Path:
    save_file(state(), folder / "anything.safetensors")
    (folder / "README.md").write_text("# A model")
    return folder


def of_a_run_here(folder: Path) -> Path:
    header = test_checkpoint.header().model_copy(update={"model": dict(network().spec), "normalization": OTHER})
    checkpoint.save(network(), header, folder / "model.safetensors")
    return folder / "model.safetensors"


def imported(folder: Path) -> Path:
    foreign_weights.save(foreign_weights.fit(timm_folder(folder), ARCH), folder / "imported")
    return folder / "imported"


TAKEN: dict[Callable[[Path], Path], tuple[Normalization, str]] = {
    timm_safetensors: (TIMM, "renamed: 'net.' is put before\nmissing: nothing\nleft over: nothing\n"),
    timm_folder: (OTHER, "config.json"),
    timm_trainer: (
        TIMM,
        "'state_dict_ema.' is taken off, 'net.' is put before\nmissing: nothing\nleft over: state_dict (",
    ),
    imagenet_example: (TIMM, "'state_dict.module.' is taken off"),
    plain_state: (TIMM, "the configuration of timm/test_resnet"),
    old_format: (TIMM, "'model.' is taken off"),
    compiled: (TIMM, "'_orig_mod.' is taken off"),
    compiled_and_distributed: (TIMM, "'model.module._orig_mod.' is taken off"),
    lightning: (TIMM, "'state_dict.model.' is taken off, 'net.' is put before\nmissing: nothing\nleft over: criterion"),
    averaged: (TIMM, "left over: n_averaged (1 tensor)"),
    without_counters: (TIMM, "missing: 15 counters of batch normalisation, which nothing reads"),
    shards: (OTHER, "preprocessor_config.json"),
    backbone: (TIMM, "head.1.weight is taken for net.fc.weight"),
    dropout_before_the_last_layer: (TIMM, "fc.1.weight is taken for net.fc.weight"),
    auxiliary: (TIMM, "left over: AuxLogits (1 tensor)"),
    bin_folder: (TIMM, "left over: nothing"),
    the_only_file: (TIMM, "left over: nothing"),
    of_a_run_here: (OTHER, "renamed: nothing\nmissing: nothing\nleft over: nothing"),
    imported: (OTHER, "renamed: nothing"),
}


@pytest.mark.parametrize("make", TAKEN, ids=lambda make: make.__name__)
def test_weights_are_taken(make: Callable[[Path], Path], tmp_path: Path) -> None:
    normalization, said = TAKEN[make]
    path = make(tmp_path)
    model, used, lines = foreign_weights.teacher(path, ARCH, None, tiny.card(), False)
    images = tiny.batch().images
    assert torch.equal(model(images), network()(images))
    assert not model.training
    assert used == normalization
    text = "\n".join(lines)
    assert said in text
    assert [line.split(":")[0] for line in lines] == ["renamed", "missing", "left over", "normalisation"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_taken(dtype: torch.dtype, tmp_path: Path) -> None:
    kept = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state().items()}
    save_file(kept, tmp_path / "w")
    model = foreign_weights.fit(tmp_path / "w", ARCH).model
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, kept[name.removeprefix("net.")].to(tensor.dtype)), name
    assert model.fc.weight.dtype is torch.float32


@pytest.mark.parametrize("arch", ["resnet18", "timm/resnet18"])
def test_weights_of_torchvision_are_taken(arch: str, tmp_path: Path) -> None:
    theirs = torchvision.models.resnet18(num_classes=4).eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    fitted = foreign_weights.fit(tmp_path / "resnet18.pth", arch)
    images = tiny.batch().images
    torch.testing.assert_close(fitted.model(images), theirs(images))
    assert fitted.normalization == (IMAGENET if arch.startswith("timm") else None)


def test_a_length_that_looks_like_a_pickle_is_none(tmp_path: Path) -> None:
    for pad in range(0, 256, 8):
        save_file({"x": torch.ones(1)}, tmp_path / "w", metadata={"pad": "x" * pad})
        if (tmp_path / "w").read_bytes()[:1] == b"\x80":
            break
    assert (tmp_path / "w").read_bytes()[:1] == b"\x80"
    assert weight_files.read(tmp_path / "w").holders[""].keys() == {"x"}


def test_what_params_yaml_says_of_the_normalisation_wins(tmp_path: Path) -> None:
    path = timm_folder(tmp_path)
    _, used, lines = foreign_weights.teacher(path, ARCH, IMAGENET, tiny.card(), False)
    assert used == IMAGENET
    assert lines[-1].endswith("from teacher.normalization")


def test_where_nothing_says_how_images_are_normalised_it_is_as_for_the_data(tmp_path: Path) -> None:
    save_file(network("resnet8").state_dict(), tmp_path / "w")
    _, used, lines = foreign_weights.teacher(tmp_path / "w", "resnet8", None, tiny.card(), False)
    assert used == tiny.NORMALIZATION
    assert "from the data, because nothing says what the weights need; teacher.normalization sets it" in lines[-1]


# A fresh last layer ---------------------------------------------------------------------------------------------------


def thousand_classes(folder: Path) -> Path:
    timm_hub.save_for_hf(copy.deepcopy(network(classes=1000).net), folder, safe_serialization=True)
    return folder


def without_head(folder: Path) -> Path:
    kept = {n: t for n, t in network(classes=1000).net.state_dict().items() if not n.startswith("fc.")}
    save_file(kept, folder / "w")
    return folder / "w"


def head_of_two_layers(folder: Path) -> Path:
    own = copy.deepcopy(network(classes=1000).net)
    own.fc = nn.Sequential(nn.Linear(own.num_features, 32), nn.ReLU(), nn.Linear(32, 7))
    torch.save(own.state_dict(), folder / "w")
    return folder / "w"


@pytest.mark.parametrize("make", [thousand_classes, without_head, head_of_two_layers], ids=lambda make: make.__name__)
def test_all_but_the_last_layer_is_taken_where_that_is_to_be_trained(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    path = make(tmp_path)
    model, _, lines = foreign_weights.teacher(path, ARCH, None, tiny.card(), True)
    assert model.fc.out_features == tiny.CLASSES
    images = tiny.batch().images
    assert torch.equal(model.features(images).pooled, network(classes=1000).features(images).pooled)
    assert lines[1] == "missing: the last layer, which is made anew"


@pytest.mark.parametrize("arch", ["resnet8", "pruned"])
def test_a_network_of_a_run_here_gets_a_new_last_layer_too(arch: str, tmp_path: Path) -> None:
    model = network("resnet8", 7)
    if arch == "pruned":
        model.spec = {"arch": arch, "num_classes": 7, "body": dict(model.spec), "image_px": 16, "history": []}
    labels = tuple(map(str, range(7)))
    header = test_checkpoint.header().model_copy(update={"model": dict(model.spec), "labels": labels})
    checkpoint.save(model, header, tmp_path / "w")
    came, _, _ = foreign_weights.teacher(tmp_path / "w", arch, None, tiny.card(), True)
    assert came.fc.out_features == came.spec["num_classes"] == tiny.CLASSES
    images = tiny.batch().images
    assert torch.equal(came.features(images).pooled, model.features(images).pooled)


# Refused --------------------------------------------------------------------------------------------------------------


class Trap:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder / "sprung"),)


def whole_model(folder: Path) -> Path:
    torch.save(torchvision.models.resnet18(), folder / "w.pth")
    return folder / "w.pth"


def whole_model_in_the_old_format(folder: Path) -> Path:
    torch.save(nn.Linear(2, 2), folder / "w.pth", _use_new_zipfile_serialization=False)
    return folder / "w.pth"


def trap(folder: Path) -> Path:
    torch.save({"state_dict": state(), "extra": Trap(folder)}, folder / "w.pth")
    return folder / "w.pth"


def plain_pickle(folder: Path) -> Path:
    (folder / "w.pkl").write_bytes(pickle.dumps(Trap(folder), protocol=2))
    return folder / "w.pkl"


def another_pickle(folder: Path) -> Path:
    (folder / "w.pkl").write_bytes(pickle.dumps({"weight": [1.0, 2.0]}, protocol=2))
    return folder / "w.pkl"


def torchscript(folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch, which still reads such files
        torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(str(folder / "w.pt"))
    return folder / "w.pt"


def half(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    def cut(folder: Path) -> Path:
        path = make(folder)
        os.truncate(path, path.stat().st_size // 2)
        return path

    cut.__name__ = f"half_of_{make.__name__}"
    return cut


def numpy_archive(folder: Path) -> Path:
    np.savez(folder / "w.npz", x=np.ones(3))
    return folder / "w.npz"


def written(content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "w.safetensors").write_bytes(content)
        return folder / "w.safetensors"

    write.__name__ = content[:9].decode()
    return write


def nothing(folder: Path) -> Path:
    return folder / "none.pth"


def no_tensors(folder: Path) -> Path:
    torch.save({"epoch": 3, "state_dict": [1, 2]}, folder / "w.pth")
    return folder / "w.pth"


def empty_folder(folder: Path) -> Path:
    return folder


def two_files(folder: Path) -> Path:
    for name in ("a.pth", "b.pth"):
        torch.save(state(), folder / name)
    return folder


def a_shard_too_few(folder: Path) -> Path:
    (shards(folder) / "model-00002-of-00002.safetensors").unlink()
    return folder


def a_shard_elsewhere(folder: Path) -> Path:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../w.safetensors"}}))
    return folder


def torn_config(folder: Path) -> Path:
    (timm_folder(folder) / "config.json").write_text('{"architecture": ')
    return folder


def grey_config(folder: Path) -> Path:
    (timm_folder(folder) / "config.json").write_text(json.dumps({"pretrained_cfg": {"mean": [0.5], "std": [0.5]}}))
    return folder


def config_of_other_words(folder: Path) -> Path:
    (timm_folder(folder) / "config.json").write_text(json.dumps({"pretrained_cfg": "imagenet", "id2label": {"a": 1}}))
    return folder


def with_metadata(**metadata: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        save_file(state(), folder / "w.safetensors", metadata=metadata)
        return folder / "w.safetensors"

    write.__name__ = str(metadata)
    return write


def config_of_another_network(folder: Path) -> Path:
    (timm_folder(folder) / "config.json").write_text(json.dumps({"architecture": "resnet34"}))
    return folder


def transformers_names(folder: Path) -> Path:
    def change(name: str) -> str:
        return "resnet.embedder." + name.replace("conv", "convolution_").replace("layer", "stages.").replace("bn", "n")

    save_file(renamed(change), folder / "w")
    return folder / "w"


def another_network(folder: Path) -> Path:
    save_file(network("resnet14").state_dict(), folder / "w")
    return folder / "w"


def a_block_more(folder: Path) -> Path:
    save_file(state() | {"layer4.1.conv1.weight": torch.ones(3)}, folder / "w")
    return folder / "w"


def a_wrong_shape(folder: Path) -> Path:
    save_file(state() | {"bn1.bias": torch.ones(3)}, folder / "w")
    return folder / "w"


def whole_numbers(folder: Path) -> Path:
    save_file({name: (100 * tensor).to(torch.int8) for name, tensor in state().items()}, folder / "w")
    return folder / "w"


def not_finite(folder: Path) -> Path:
    save_file(state() | {"fc.bias": torch.full((4,), torch.nan)}, folder / "w")
    return folder / "w"


def two_networks(folder: Path) -> Path:
    both = renamed(lambda name: f"encoder_q.{name}")
    torch.save(both | {f"encoder_k.{name}": tensor for name, tensor in other_state().items()}, folder / "w")
    return folder / "w"


def other_classes(folder: Path) -> Path:
    save_file(network(classes=7).net.state_dict(), folder / "w")
    return folder / "w"


def other_order(folder: Path) -> Path:
    config = json.loads((shards(folder) / "config.json").read_text())
    names = config["id2label"]
    config["id2label"] = names | {"1": names["2"], "2": names["1"]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


SAVE = r"torch\.save\(model\.state_dict\(\), 'weights\.pth'\)"
AGAIN = "Copy or download it again"
REFUSED: list[tuple[Callable[[Path], Path], str]] = [
    (whole_model, rf"needs code to be read \(torchvision\.models\.resnet\.ResNet\), which is not run\. .*{SAVE}"),
    (whole_model_in_the_old_format, rf"needs code to be read \(torch\.nn\.modules\.linear\.Linear\).*{SAVE}"),
    (trap, rf"needs code to be read \((os|posix|nt)\.mkdir\).*{SAVE}"),
    (plain_pickle, rf"needs code to be read \((posix|nt)\.mkdir\).*{SAVE}"),
    (another_pickle, rf"was not written by torch\.save, or is damaged; no other pickle is read\. .*{SAVE}"),
    (torchscript, rf"is a TorchScript program, which is not run\. .*{SAVE}"),
    (half(timm_safetensors), f"is not a complete safetensors file .*{AGAIN}"),
    (half(plain_state), f"is half a file: .*{AGAIN}"),
    (half(old_format), f"cannot be read as a file of torch.save .*{AGAIN}"),
    (numpy_archive, f"cannot be read as a file of torch.save .*{AGAIN}"),
    (written(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"), "is a Git LFS pointer, not the weights"),
    (written(b"<!DOCTYPE html><title>Sign in</title>"), "is a web page, not the weights"),
    (written(b""), f"is not a complete safetensors file .*{AGAIN}"),
    (written(b"model, loss\n1, 2\n"), f"is not a complete safetensors file .*{AGAIN}"),
    (nothing, r"there is no such file or folder as '.*none\.pth'"),
    (no_tensors, rf"holds no weights: no dictionary of tensors is in it\. .*{SAVE}"),
    (empty_folder, r"holds no file of weights, .* Name the file instead"),
    (two_files, r"holds a\.pth, b\.pth, and none is named model\.safetensors or pytorch_model\.bin\. Name the file"),
    (a_shard_too_few, r"index\.json names model-00002-of-00002\.safetensors: not in "),
    (a_shard_elsewhere, r"index\.json names \.\./w\.safetensors: not in "),
    (torn_config, r"config\.json is not a JSON object"),
    (with_metadata(pupil="{"), rf"the header of .* is not a JSON object \(Expecting .*{AGAIN}"),
    (with_metadata(pupil='{"model": {}}'), r"has a header that is damaged or of another version \(.*train the network"),
    (with_metadata(pupil_config="{"), rf"pupil_config in the metadata of .* is not a JSON object .*{AGAIN}"),
    (with_metadata(pupil_config="[1]"), rf"pupil_config in .* is not a JSON object \(it is a list\)\. {AGAIN}"),
    (
        grey_config,
        r"does not name classes, mean and std as timm or transformers do \(4 validation errors .*mean\.1;",
    ),
    (config_of_other_words, r"does not name classes, mean and std .*Correct it, or name the file"),
    (config_of_another_network, r"teacher\.arch is timm/test_resnet, but the file says timm/resnet34"),
    (
        transformers_names,
        r"does not hold a timm/test_resnet: it lacks net\.conv1\.0\.weight, .*; nearest to net\.conv1\.0\.weight "
        r"\(16, 3, 3, 3\) is resnet\.embedder\.convolution_1\.0\.weight \(16, 3, 3, 3\); .*Check teacher\.arch",
    ),
    (
        another_network,
        r"does not hold a timm/test_resnet: it lacks net\.conv1\.0.*it has in addition bn2.*; nearest to net",
    ),
    (a_block_more, r"it has in addition layer4\.1\.conv1\.weight\. Check"),
    (a_wrong_shape, r"net\.bn1\.bias is \(3,\), not \(\d+,\)"),
    (whole_numbers, r"is of torch\.int8, not of floating-point numbers"),
    (not_finite, r"holds weights that are not finite, such as net\.fc\.bias"),
    (without_head, r"but no last layer that is known: it lacks net\.fc\.weight, .*Set teacher\.head to retrain"),
    (head_of_two_layers, r"but no last layer that is known: .*fc\.2\.weight.*Set teacher\.head to retrain"),
    (two_networks, r"holds several networks that fit equally well, below 'encoder_q\.' and 'encoder_k\.'"),
    (other_classes, r"knows 7 classes, but the data set has 4\. Set teacher\.head to retrain"),
    (
        other_order,
        r"another order: its class 1 is 'class 2', that of the data 'class 1'\. Set teacher\.head to retrain",
    ),
]


@pytest.mark.parametrize(("make", "said"), REFUSED, ids=lambda it: getattr(it, "__name__", ""))
def test_weights_are_refused_with_what_to_do(make: Callable[[Path], Path], said: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    with pytest.raises(CheckpointError, match=said) as caught:
        foreign_weights.teacher(path, ARCH, None, tiny.card(), False)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "sprung").exists()


def test_a_last_layer_to_be_trained_hides_no_layer_that_is_missing(tmp_path: Path) -> None:
    save_file({name: tensor for name, tensor in state().items() if not name.startswith("layer4.")}, tmp_path / "w")
    with pytest.raises(CheckpointError, match=r"it lacks net\.layer4"):
        foreign_weights.teacher(tmp_path / "w", ARCH, None, tiny.card(), True)


def test_a_dictionary_that_holds_itself_ends(tmp_path: Path) -> None:
    saved: dict[str, Any] = {"state_dict": state()}
    saved["again"] = saved
    torch.save(saved, tmp_path / "w")
    assert foreign_weights.fit(tmp_path / "w", ARCH).said[0].startswith("renamed: 'state_dict.'")


@pytest.mark.parametrize(
    ("arch", "classes", "said"),
    [
        ("resnet20", 4, r"it lacks layer1\.2"),
        ("resnet8", 4, r"it has in addition layer1\.1"),
        ("wrn_16_1", 4, "does not hold a wrn_16_1"),
    ],
)
def test_weights_of_another_network_are_refused(arch: str, classes: int, said: str, tmp_path: Path) -> None:
    save_file(tiny.network("resnet14", classes).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=said):
        foreign_weights.teacher(tmp_path / "w.safetensors", arch, None, tiny.card(), False)


@pytest.mark.parametrize(
    ("arch", "normalization", "said"),
    [
        ("resnet14", None, "teacher.arch is resnet14, but the file says resnet8"),
        ("resnet8", Normalization(mean=(0, 0, 0), std=(1, 1, 1)), "teacher.normalization is"),
    ],
)
def test_a_file_that_says_what_it_is_is_held_to_it(
    arch: str, normalization: Normalization | None, said: str, tmp_path: Path
) -> None:
    checkpoint.save(tiny.network(), test_checkpoint.header(), tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=said):
        foreign_weights.teacher(tmp_path / "m.safetensors", arch, normalization, tiny.card(), False)


def test_an_architecture_that_is_no_name_is_said(tmp_path: Path) -> None:
    path = with_metadata(pupil_config='{"pupil_arch": 5}')(tmp_path)
    with pytest.raises(CheckpointError, match=r"teacher\.arch is resnet8, but the file says 5"):
        foreign_weights.fit(path, "resnet8")


def test_a_file_with_classes_in_another_order_is_refused(tmp_path: Path) -> None:
    swapped = test_checkpoint.header().model_copy(update={"labels": tuple(reversed(test_checkpoint.header().labels))})
    checkpoint.save(tiny.network(), swapped, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="the data set's classes"):
        foreign_weights.teacher(tmp_path / "m.safetensors", "resnet8", None, tiny.card(), False)


# Checksums, and the file that is written ------------------------------------------------------------------------------


def test_the_checksum_of_a_folder_follows_all_that_is_read_and_nothing_else(tmp_path: Path) -> None:
    folder = shards(tmp_path)
    digests = [weight_files.sha256(folder)]
    (folder / "README.md").write_text("another word")
    assert weight_files.sha256(folder) == digests[0]
    for name in ("model-00001-of-00002.safetensors", "config.json", "preprocessor_config.json"):
        (folder / name).write_bytes((folder / name).read_bytes() + b" ")
        digests.append(weight_files.sha256(folder))
    assert len(set(digests)) == 4


def test_the_same_weights_are_written_to_the_same_bytes_with_the_names_of_this_project(tmp_path: Path) -> None:
    fitted = foreign_weights.fit(shards(tmp_path), ARCH)
    for name in ("a", "b"):
        foreign_weights.save(fitted, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert load_file(tmp_path / "a").keys() == network().state_dict().keys()
    again = foreign_weights.fit(tmp_path / "a", ARCH)
    assert (again.labels, again.normalization) == (tiny.card().labels, OTHER)
    with pytest.raises(CheckpointError, match=r"teacher\.arch is timm/resnet18, but the file says timm/test_resnet"):
        foreign_weights.fit(tmp_path / "a", "timm/resnet18")
    with pytest.raises(PupilError, match="could not be written"):
        foreign_weights.save(fitted, tmp_path / "a" / "below a file")


def test_that_a_run_trained_on_its_validation_images_is_said(tmp_path: Path) -> None:
    for seen in (False, True):
        card = tiny.card().model_copy(update={"train_includes_val": seen})
        header = checkpoint.make_header(network(), card, OTHER, None, 0, {})
        checkpoint.save(network(), header, tmp_path / "model.safetensors")
        said = foreign_weights.fit(tmp_path / "model.safetensors", ARCH).said
        assert any("trained on its validation images too" in line for line in said) == seen
