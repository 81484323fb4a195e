"""A finished run written by hand, complete, for tests of the report."""

import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.report.artefacts.collect import Sources, collect
from pipeline.report.artefacts.results import Results
from stages.report import report
from tests.toy import ROOT

IMAGES, PX = 40, 12

TOP1 = {"vanilla": (60.0, 60.4, 60.2), "kd": (60.0, 61.0, 62.0), "sakd": (63.0, 63.1, 63.2)}
TEACHER_TOP1 = 66.0
ODD_LABEL = "<script>alert('a|b')</script>"
LABELS = ("cat", ODD_LABEL, "dog")


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def evaluation(method: str | None, seed: int, top1: float, scale: int = 1) -> dict[str, Any]:
    test = {"top1": top1, "top5": 90.0, "nll": 1.25, "ece": 0.0314, "later": [1]}
    agreement = {"top1_agreement": 71.5, "kl_from_teacher": 0.5} if method else {}
    return {
        "arch": "resnet8" if scale == 1 else "resnet20",
        "method": method,
        "seed": seed,
        "test": test | agreement,
        "top1_interval": [top1 - 2, top1 + 2],
        "images": 2000,
        "num_parameters": 80_000 * scale,
        "macs": 12_000_000 * scale,
        "size_bytes": 320_000 * scale,
        "later": {"unknown": "key"},
    }


def history(*val_top1: float) -> dict[str, Any]:
    epochs = [
        {"epoch": epoch, "lr": 0.1, "train": {"loss": 1.0, "top1": 50.0}, "val": {"top1": top1, "top5": 90.0}}
        for epoch, top1 in enumerate(val_top1, start=1)
    ]
    best = max(epochs, key=lambda record: record["val"]["top1"])
    last, best = ({"epoch": e["epoch"], "val_top1": e["val"]["top1"]} for e in (epochs[-1], best))
    shipped = len(epochs)
    return {"last": last, "best": best, "shipped_epoch": shipped, "val_seen_in_training": False, "epochs": epochs}


def timing(p50_ms: float, n: int) -> dict[str, Any]:
    p99_ms = 2 * p50_ms if n >= 662 else None
    carried = 99 if n >= 662 else 90
    return {
        "n": n,
        "mean_ms": p50_ms,
        "p50_ms": p50_ms,
        "p90_ms": 1.5 * p50_ms,
        "p99_ms": p99_ms,
        "p90_bound_ms": None,
        "images_per_s": 1000 / p50_ms,
        "quantiles_ms": [p50_ms * (0.5 + p / 100) if p <= carried else None for p in range(1, 100)],
    }


def scenario(name: str, **changes: object) -> dict[str, Any]:
    return {
        "scenario": name,
        "seconds": 0.5,
        "official": False,
        "valid": True,
        "reasons": [],
        "queries": 700,
        "samples": 5600,
        "samples_per_s": 2345.6,
        "p50_ms": 0.25,
        "p90_ms": 0.5,
        "p99_ms": 1.5,
        "p90_bound_ms": 0.75,
        "p99_bound_ms": None,
    } | changes


def alone(name: str, top1: float | None) -> dict[str, Any]:
    memory = [{"batch_size": 1, "peak_bytes": 60_000_000}, {"batch_size": 32, "peak_bytes": 67_000_000}]
    return {
        "name": name,
        "device": "cpu",
        "size_bytes": 330_000,
        "top1": top1,
        "threads": [
            {"threads": 1, "batch_size": 1, "p50_ms": 0.4},
            {"threads": 2, "batch_size": 1, "p50_ms": 0.3},
            {"threads": 1, "batch_size": 32, "p50_ms": 9.0},
        ],
        "energy": None,
        "cold_start": {"n": 3, "import_ms": 75.0, "open_ms": 8.5, "first_call_ms": 0.75, "memory": memory},
        "loadgen": [scenario("SingleStream"), scenario("Server", p99_limit_ms=10.0, valid=False, samples_per_s=None)],
    }


def batch(size: int, n: int) -> dict[str, Any]:
    times = {
        "student_onnx": 0.4,
        "teacher_onnx": 1.0,
        "student_int8_onnx": 0.25,
        "student_torch": 1.2,
        "teacher_torch": 3.0,
    }
    return {
        "batch_size": size,
        "rounds": n // 2,
        "candidates": {name: timing(ms * size, n) for name, ms in times.items()},
        "ratios": {
            "teacher_onnx / student_onnx": {"median": 2.5, "low": 2.4, "high": 2.6},
            "teacher_torch / teacher_onnx": {"median": 3.0, "low": 2.9, "high": 3.1},
            "student_onnx / student_int8_onnx": {"median": 1.6, "low": 1.5, "high": 1.7},
            "teacher_onnx / student_int8_onnx": {"median": 4.0, "low": 3.9, "high": 4.1},
            "teacher_torch / student_int8_onnx": {"median": 12.0, "low": 11.0, "high": 13.0},
        },
        "after_pause": {"pause_ms": 10, "n": 70, "p50_ms": {name: 2 * ms for name, ms in times.items()}}
        if size == 1
        else None,
    }


def quantization(int8_accepted: bool) -> dict[str, Any]:
    def student(file: str, top1: float, accepted: bool = True, **more: Any) -> dict[str, Any]:
        scores = {"top1": top1, "nll": 1.0, "float32_agreement": 98.5, "sqnr_db": 31.26}
        reason = "accepted: a drop" if accepted else "refused: 2.50 more than deploy.max_drop; node_Conv_1 <&>"
        record = {"file": file, "accepted": accepted, "reason": reason, "size_bytes": 90_000}
        record["against_teacher"] = {"difference": top1 - 1 - TEACHER_TOP1, "interval": [top1 - 68.5, top1 - 65.5]}
        return record | {"val": scores, "test": scores | {"top1": top1 - 1}} | more

    name = "quantized/student.int8.onnx" if int8_accepted else "quantized/student.int8.refused.onnx"
    float32 = student("student.onnx", 64.0)
    float32["val"]["sqnr_db"] = None
    students = {
        "float32": float32,
        "int8": student(name, 63.75, int8_accepted),
        "fp16": student("quantized/student.fp16.refused.onnx", 0, False, val=None, test=None, against_teacher=None),
    }
    return {"max_drop": 0.5, "students": students}


def deployed(file: str) -> dict[str, Any]:
    return {"file": file, "reason": "it is the smallest file, and no other one is faster beyond doubt"}


def png(seed: int, px: int = PX) -> str:
    """Noise, which no PNG makes smaller, in base64."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (px, px, 3), dtype=np.uint8)).save(file, "png")
    return base64.b64encode(file.getvalue()).decode("ascii")


def audit() -> dict[str, Any]:
    def split(images: int) -> dict[str, Any]:
        pixels = {"min": 12, "median": 20.5, "max": 40}
        facts = {"images": images + 1, "kept": images, "bad": 1, "dropped": 3, "duplicates": 2}
        return facts | {"class_images": {"min": 6, "median": 7.0, "max": 9}, "width_px": pixels, "height_px": pixels}

    def finding(kind: str, name: str, **more: Any) -> dict[str, Any]:
        return {"kind": kind, "split": "train", "name": name, "label": ODD_LABEL, "reason": "because"} | more

    return {
        "source": "folder",
        "on_bad": "skip",
        "leaks": "report",
        "splits": {"train": split(100), "val": split(20), "test": split(2000)},
        "source_splits": {"leaks": 4, "repeats": 1},
        "counts": {"truncated": 1, "leak": 1, "tiny": 0},
        "findings": [
            finding(
                "leak", "K\u00fcche/<img src=x>.png", reason="the pixels of test row 3 (<i>)", thumbnail=png(0), later=1
            ),
            finding("truncated", "half.jpg", thumbnail=None),
        ],
    }


def analysis() -> dict[str, Any]:
    def of_class(label: str, top1: float) -> dict[str, Any]:
        scores = {"top1": top1, "interval": [top1 - 5, top1 + 5], "teacher_top1": 71.0, "agreement": 80.0}
        return {"label": label, "images": 13} | scores

    empty = {"low": 0.0, "high": 0.5, "images": 0, "confidence": None, "accuracy": None}
    return {
        "classes": [of_class("cat", 70.0), of_class(ODD_LABEL, 50.0), of_class("dog", 90.0)],
        "confusion": [[9, 3, 1], [4, 7, 2], [0, 1, 12]],
        "largest_confusions": [{"true": ODD_LABEL, "predicted": "cat", "images": 4, "share": 30.75}],
        "reliability": [empty, {"low": 0.5, "high": 1.0, "images": 40, "confidence": 0.75, "accuracy": 0.7}],
        "against_teacher": {
            "both": 1200,
            "only_student": 60,
            "only_teacher": 120,
            "neither": 620,
            "only_student_positions": [0, 3],
            "only_teacher_positions": [1],
        },
        "mistakes": [{"position": 1, "true": ODD_LABEL, "predicted": "cat", "confidence": 0.987}],
    }


def comparison() -> dict[str, Any]:
    pairs, methods = [], []
    for method in TOP1:
        for against in ("vanilla", "teacher"):
            if method == against:
                continue
            mean = sum(TOP1[method]) / 3 - (sum(TOP1["vanilla"]) / 3 if against == "vanilla" else TEACHER_TOP1)
            place = {"method": method, "against": against}
            methods.append(place | {"difference": mean, "interval": [mean - 1, mean + 1], "seeds": 3})
            for seed, top1 in enumerate(TOP1[method]):
                points = top1 - (TOP1["vanilla"][seed] if against == "vanilla" else TEACHER_TOP1)
                counts = {"only_this": 150, "only_other": 90, "mcnemar_p": 0.00013}
                pairs.append(
                    place | counts | {"seed": seed, "difference": points, "interval": [points - 1, points + 1]}
                )
    return {"baseline": "vanilla", "pairs": pairs, "methods": methods}


def energy_maps() -> dict[str, Any]:
    says = [{"label": "cat", "confidence": 0.5}]
    stages = [{"name": "stage 1", "height": 4, "width": 4, "maps": [png(2, 4)]}]
    networks = [
        {"name": name, "arch": "resnet8", "predictions": says, "stages": stages} for name in ("teacher", "sakd")
    ]
    return {"image_px": PX, "images": [{"position": 2, "label": "dog", "png": png(3)}], "networks": networks}


class Run:
    """A finished run below a folder; `results` collects it, `report` calls the stage."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for method, values in TOP1.items():
            for seed, top1 in enumerate(values):
                self.write(f"students/{method}/{seed}/evaluation.json", evaluation(method, seed, top1))
                self.write(f"students/{method}/{seed}/history.json", history(20.0, 62.0 + seed, 61.0 + seed))
        self.write("students/sakd/0/analysis.json", analysis())
        self.write("comparison.json", comparison())
        self.write("energy_maps.json", energy_maps())
        self.write("data/audit.json", audit())
        self.write("teacher/evaluation.json", evaluation(None, 0, TEACHER_TOP1, scale=4))
        self.write("teacher/history.json", history(30.0, 64.0, 65.0))
        parity = {"batch_size": 1, "max_probability_error": 3.2e-7, "max_logit_error": 4e-6, "top1_equal": True}
        self.write("deploy/parity.json", {"student": [parity], "teacher": [parity], "later": 1})
        self.write("deploy/quantization.json", quantization(int8_accepted=True))
        self.write("deploy/deployed.json", deployed("quantized/student.int8.onnx"))
        machine = {
            "cpu": "Fast & Co <9000>",
            "cores": 4,
            "os": "Linux",
            "python": "3.11.7",
            "packages": {"torch": "2.11"},
        }
        latency = {
            "machine": machine,
            "load_average": [0.5, 0.4, 0.3],
            "threads": 1,
            "device": "cpu",
            "batches": [batch(32, 70), batch(1, 700)],
            "candidates": [alone("student_onnx", 63.0), alone("teacher_onnx", 66.0), alone("student_int8_onnx", 62.75)],
            "left_out": {},
            "size_bytes": {"student.onnx": 330_000, "teacher.onnx": 1_200_000},
        }
        self.write("deploy/latency.json", latency)
        card = {
            "source": "digit_pairs",
            "labels": LABELS,
            "image_px": 8,
            "storage_px": PX,
            "counts": {"train": 100, "val": 21, "test": IMAGES},
            "class_counts": {"train": [30, 30, 40], "val": [7, 7, 7], "test": [14, 13, 13]},
            "normalization": {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.25, 0.25]},
            "sha256": {"train/images.npy": "ab" * 32},
            "licence": None,
        }
        self.write("data/card.json", card)
        self.arrays()
        self.logits()
        self.params(seeds=[0, 1, 2])
        self.write("chosen.json", {"method": "sakd", "seed": 0, "val_top1": 61.0, "of_methods": 1, "of_seeds": 1})

    def arrays(self) -> None:
        """The test split."""
        (self.root / "data/test").mkdir()
        images = np.random.default_rng(0).integers(0, 256, (IMAGES, PX, PX, 3), dtype=np.uint8)
        np.save(self.root / "data/test/images.npy", images)
        np.save(self.root / "data/test/labels.npy", np.arange(IMAGES) % len(LABELS))

    def logits(self, classes: int = len(LABELS)) -> None:
        """What both networks say of the test split: the student the next class, the teacher the right one."""
        labels = np.arange(IMAGES) % len(LABELS)
        for folder, said in (("students/sakd/0", labels + 1), ("teacher", labels)):
            np.save(self.root / folder / "logits.npy", np.eye(classes, dtype=np.float32)[said % len(LABELS)])

    def write(self, name: str, value: object) -> None:
        write(self.root / name, value)

    def edit(self, name: str, **changes: object) -> None:
        value = json.loads((self.root / name).read_text(encoding="utf-8"))
        self.write(name, value | changes)

    def params(self, seeds: list[int], methods: tuple[str, ...] = ("vanilla", "kd", "sakd")) -> None:
        self.write("params.yaml", {"distill": {"seeds": seeds, "methods": {method: {} for method in methods}}})

    def ships(self, method: str) -> None:
        """Another method ships, and has the analysis and the logits of the one that shipped."""
        self.edit("chosen.json", method=method)
        for name in ("analysis.json", "logits.npy"):
            shutil.copy(self.root / "students/sakd/0" / name, self.root / "students" / method / "0")

    def paths(self) -> dict[str, Path]:
        names = ("students", "teacher", "deploy", "data")
        files = {
            "params": "params.yaml",
            "chosen": "chosen.json",
            "comparison": "comparison.json",
            "energy_maps": "energy_maps.json",
        }
        places = {name: self.root / name for name in names} | {name: self.root / file for name, file in files.items()}
        return places | {"published": ROOT / "results/published_top1.yaml"}

    def results(self) -> Results:
        return collect(Sources(**self.paths()))

    def report(self, out: Path) -> dict[str, bytes]:
        report(**self.paths(), out=out)
        return {path.name: path.read_bytes() for path in out.iterdir()}


def text_of(html: str) -> str:
    """What a page says, without its head and its tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", html[html.index("<body>") :]))
