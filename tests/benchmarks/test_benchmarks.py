"""What the benchmarks compare computes the same; how fast is for them to say."""

import json
import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from torch import Tensor
from torch.nn import functional

from benchmarks import augment as augment_benchmark
from benchmarks import bare_epoch, gpu, kill, memory, step_profile, sweep, views, wrn_onnx
from benchmarks import prepare as prepare_benchmark
from benchmarks.plain import Images, PlainAttention, PlainLoop
from pipeline.data.arrays import Split
from pipeline.distillation import afd
from pipeline.evaluation import published
from pipeline.models.base import MapShape
from pipeline.preparation.prepare import prepare
from pipeline.settings import params, presets
from pipeline.settings.reading import parse
from pipeline.system import registry
from pipeline.training import engine
from serve.model.classifier import OnnxClassifier
from tests import tiny
from tests.golden import G, fill

pytestmark = pytest.mark.slow

MEGABYTE = 2**20
Shapes = tuple[tuple[int, int, int], ...]
PAIRS: dict[str, tuple[Shapes, Shapes]] = {
    "same sizes": (((8, 8, 8), (8, 8, 8), (16, 4, 4)), ((16, 8, 8), (32, 4, 4), (32, 4, 4))),
    "other sizes": (((8, 6, 6), (16, 3, 3)), ((4, 8, 8), (8, 5, 5), (8, 5, 5), (16, 2, 2))),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_the_plain_attention_is_the_one_of_afd_and_that_of_its_formula(pair: str) -> None:
    shapes_s, shapes_t = (tuple(MapShape(*sizes) for sizes in network) for network in PAIRS[pair])
    ours, plain = fill(afd.Attention(shapes_s, shapes_t, 8)), fill(PlainAttention(shapes_s, shapes_t, 8))
    with torch.no_grad():
        plain.position_t.copy_(ours.position_t)
        plain.position_s.copy_(ours.position_s)
    maps_s, maps_t = ([G((6, *shape), 0.1 * i).relu() for i, shape in enumerate(x)] for x in (shapes_s, shapes_t))
    results = []
    for attention in (plain, ours, partial(_pair_by_pair, plain)):
        leaves = [x.clone().requires_grad_() for x in maps_s]
        loss = attention(leaves, maps_t)
        results.append((loss, *torch.autograd.grad(loss, leaves)))
    for other in results[1:]:
        for ours_or_plain, expected in zip(results[0], other, strict=True):
            torch.testing.assert_close(ours_or_plain, expected, rtol=1e-4, atol=1e-7)
    assert all(part.abs().max() > 1e-5 for part in results[0])


def _pair_by_pair(plain: PlainAttention, maps_s: list[Tensor], maps_t: list[Tensor]) -> Tensor:
    """The sum over teacher blocks t and student blocks s, term by term, with the weights of `plain`."""
    query = [embed(x.mean((2, 3))) for embed, x in zip(plain.queries, maps_t, strict=True)]
    key = torch.stack([embed(x.mean((2, 3))).relu() for embed, x in zip(plain.keys, maps_s, strict=True)], 1)
    bilinear = plain.bilinear(key.flatten(0, 1)).view(*key.shape[:2], len(maps_t), -1)
    loss = torch.zeros(())
    for t, map_t in enumerate(maps_t):
        energy_t = functional.normalize(map_t.pow(2).mean(1).flatten(1), dim=1)
        logits, distances = [], []
        for s, map_s in enumerate(maps_s):
            product = (bilinear[:, s, t] * query[t]).sum(1) + plain.position_t[t] @ plain.position_s[s]
            logits.append(product / bilinear.shape[3] ** 0.5)
            energy_s = functional.adaptive_avg_pool2d(map_s.pow(2).mean(1), tuple(map_t.shape[2:]))
            distances.append((functional.normalize(energy_s.flatten(1), dim=1) - energy_t).pow(2).mean(1))
        loss = loss + (torch.stack(logits, 1).softmax(1) * torch.stack(distances, 1)).sum(1).mean()
    return loss


def test_the_gpu_benchmark_runs_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu", "--tiny", "--device", "cpu", "--out", str(out)])
    # Compiling takes half a minute a method, and is tried elsewhere.
    monkeypatch.setattr(engine, "compile_for", lambda method, device: None)
    gpu.main()
    parts = json.loads(out.read_text())["parts"]
    assert [part for part in parts.values() if "error" in part or "left_out" in part] == []
    apart = [part["largest_relative_difference"] for name, part in parts.items() if name.startswith("values")]
    assert apart == [0.0] * len(registry.names("pipeline.distillation"))
    assert parts["steps tiny, afd, batch 16"]["plain"]["images_per_s"] > 0


def test_the_plain_loop_trains_and_sees_every_image() -> None:
    method = tiny.method("afd")
    loop, data = PlainLoop(method, tiny.IMAGE_PX, 0.05, 0.9, 5e-4), Images(tiny.split(), tiny.NORMALIZATION)
    losses = [loop.step(tiny.batch()) for _ in range(5)]
    assert losses[-1] < losses[0]
    seen: list[int] = []
    loop.step = lambda batch: seen.extend(batch.positions.tolist()) or 0.0  # type: ignore[func-returns-value,method-assign]
    loop.epoch(data, 16, 0)
    assert sorted(seen) == list(range(64))


def test_the_memory_of_a_process_is_seen_by_kind(tmp_path: Path) -> None:
    mapped = tmp_path / "mapped"
    mapped.write_bytes(bytes(48 * MEGABYTE))
    hold = f"x = b'1' * {96 * MEGABYTE}"
    read = (
        f"import mmap; f = open({str(mapped)!r}, 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); m.find(b'1')"
    )
    (nothing, _), (held, said), (seen, _) = (
        memory.watch(["-c", f"{code}; import time; time.sleep(0.3); print('done')"], 1000 * MEGABYTE)
        for code in ("pass", hold, read)
    )
    assert said == "done\n"
    assert 95 < (held.peak_anonymous_bytes - nothing.peak_anonymous_bytes) / MEGABYTE < 110
    assert abs(held.peak_file_bytes - nothing.peak_file_bytes) < 5 * MEGABYTE
    assert 47 < (seen.peak_file_bytes - nothing.peak_file_bytes) / MEGABYTE < 60
    assert abs(seen.peak_anonymous_bytes - nothing.peak_anonymous_bytes) < 5 * MEGABYTE
    assert held.peak_resident_bytes >= held.peak_anonymous_bytes
    assert held.seconds > 0.3


def test_a_process_that_needs_more_than_the_limit_is_not_measured_but_said() -> None:
    memory.watch(["-c", "import time; time.sleep(0.5)"], 80 * MEGABYTE)
    with pytest.raises(subprocess.CalledProcessError):
        memory.watch(["-c", f"import time; time.sleep(0.5); x = b'1' * {96 * MEGABYTE}"], 80 * MEGABYTE)


def test_memory_is_measured_on_as_many_bytes_as_asked_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = memory.make_params(0.002, 32, 64, 0)
    with (tmp_path / "params.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(made, file)
    card = prepare(params.load(tmp_path / "params.yaml").data, tmp_path / "data", progress=False)
    assert Split.load(tmp_path / "data", "train", card).images.nbytes == pytest.approx(2_000_000, rel=0.001)
    before = torch.get_rng_state()
    bare_epoch.main(tmp_path / "params.yaml", tmp_path / "data", tmp_path / "state")
    torch.set_rng_state(before)
    out, err = capfd.readouterr()
    assert float(out) > 0
    assert "epoch 1/1" in err
    assert (tmp_path / "state").exists()


def test_the_moments_of_the_kills_are_spread_and_named() -> None:
    shares = kill.shares(20, random.Random(0))
    assert sorted(int(share * 20) for share in shares) == list(range(20))
    assert shares != sorted(shares)
    assert shares == kill.shares(20, random.Random(0))
    killed, epochs = -signal.SIGKILL, kill.EPOCHS
    assert kill.moment(0, epochs, True) == "had ended"
    assert kill.moment(killed, epochs, True) == "after its model was written"
    assert kill.moment(killed, epochs, False) == "between the last epoch and the model"
    assert kill.moment(killed, 1, False) == "in a later epoch"
    assert kill.moment(killed, 0, False) == "in the first epoch or before"
    with pytest.raises(RuntimeError, match="status 1"):
        kill.moment(1, 0, False)


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("aten::mkldnn_convolution", "convolution"),
        ("aten::convolution_backward", "convolution"),
        ("aten::native_batch_norm", "batch norm"),
        ("aten::addmm", "matrix product"),
        ("aten::_fused_sgd_", "optimizer"),
        ("aten::threshold_backward", "activations and arithmetic"),
        ("aten::add_", "activations and arithmetic"),
        ("aten::_to_copy", "copies and casts"),
        ("aten::mean", "reductions"),
        ("autograd::engine::evaluate_function: AddBackward0", step_profile.OTHER),
        ("MeanSquareBackward", "reductions"),
    ],
)
def test_operations_are_counted_by_their_kind(operation: str, kind: str) -> None:
    assert step_profile.kind_of(operation) == kind


def test_the_table_of_the_sweep_is_one_that_can_be_trained(tmp_path: Path) -> None:
    sweep.write_project(tmp_path)
    layers = [tmp_path / "presets" / name for name in sweep.PRESETS]
    whole = parse(params.Params, presets.overlaid(tmp_path / "params.yaml", layers), "", "the sweep")
    params.check_all(whole)
    assert (whole.teacher.arch, whole.student.arch) == ("resnet14", "resnet8")
    assert whole.distill.train.epochs > 1
    assert published.read(tmp_path / "published.yaml").row("small") == {}


def test_the_network_of_the_servers_benchmarks_can_be_served(tmp_path: Path) -> None:
    model = OnnxClassifier(wrn_onnx.write(tmp_path / "model.onnx"), device="cpu")
    # 703,284 before BNs were folded.
    assert model.card.name == "wrn_16_2"
    assert 0.99 * 703_284 < model.card.num_parameters < 703_284
    assert model(np.zeros((1, 32, 32, 3), np.uint8)).sum() == pytest.approx(1, abs=1e-5)


def test_prepare_is_timed_beside_a_plain_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--photographs", "200", "--rounds", "1", "--plain", "5", "--out", str(tmp_path / "out.json")]
    monkeypatch.setattr(sys, "argv", ["prepare", *options])
    prepare_benchmark.main()
    result = json.loads((tmp_path / "out.json").read_text())["results"]["photographs"]
    assert result["images"] == 200
    (run,) = result["prepare"]["rounds"]
    assert run["peak_anonymous_bytes"] > 10 * MEGABYTE
    assert result["prepare"]["median_s"] == run["seconds"] > 0
    assert min(result["reading_images_per_s"].values()) > 0
    assert result["plain_loop"]["images"] == 5


def test_the_crops_that_are_timed_are_of_the_same_kind() -> None:
    batches = {name: make() for name, make in augment_benchmark.ways(40, 32, 16).items()}
    for name, batch in batches.items():
        assert batch.shape == (16, 3, 32, 32), name
        assert batch.is_contiguous(memory_format=torch.channels_last), name
        if name != "ours_strong":
            torch.testing.assert_close(batch.mean((0, 2, 3)), batches["ours"].mean((0, 2, 3)), atol=0.1, rtol=0)


def test_strong_views_are_timed_beside_weak_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "views.json"
    words = "--pairs resnet8:resnet8 --methods kd,mlkd --rounds 2 --images 64 --out"
    monkeypatch.setattr(sys, "argv", ["views", *words.split(), str(out)])
    views.main()
    rows = json.loads(out.read_text(encoding="utf-8"))["results"]
    assert [(row["method"], row["views"]) for row in rows] == [
        ("kd", "weak"),
        ("kd", "strong"),
        ("mlkd", "weak and strong"),
    ]
    assert rows[0]["beside"]["median"] == 1
    assert all(row["images_per_s"] > 0 for row in rows)
