"""A folder that can be handed on: the models, their labels, and a README.md that says what they are and runs them.

    DIR/NAME.onnx      each model, as it was exported
    DIR/labels.json    class names, in the order of the outputs
    DIR/README.md      the card: sizes, accuracy, latency, data, licence, and a program without this project

The head of README.md is YAML as the Hugging Face Hub reads it: https://huggingface.co/docs/hub/model-cards, and for
`model-index` the type ModelCardData of https://github.com/huggingface/huggingface_hub.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serve import files
from serve.errors import ServeError
from serve.model.card import Card

_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_LATENCY = "python -m serve benchmark ... --json FILE and stage benchmark write it"


def write(folder: Path, models: Mapping[Path, Card], licence: str | None, latency: Path | None) -> None:
    """Write the folder, complete or not at all. The first model is the one that the program in README.md runs.

    `licence` is the Hub's name of the weights' licence (None: not stated), `latency` a JSON file of a benchmark.

    Raises ServeError for a folder that holds something, models of different classes, a name that is no licence's, or
    a latency file that is no such, or that has timed other files.
    """
    labels = next(iter(models.values())).labels
    for path, card in models.items():
        if card.labels != labels:
            raise ServeError(f"{path} knows other classes than the model before it; package them one by one.")
    text = readme(models, licence, None if latency is None else _read(latency))
    with files.new_folder(folder) as aside:
        for path, card in models.items():
            shutil.copyfile(path, aside / f"{card.full_name}.onnx")
        labels_json = json.dumps(labels, ensure_ascii=False, indent=0)
        (aside / "labels.json").write_text(f"{labels_json}\n", encoding="utf-8")
        (aside / "README.md").write_text(text, encoding="utf-8")


def readme(models: Mapping[Path, Card], licence: str | None, latency: Mapping[str, Any] | None) -> str:
    """README.md. Raises ServeError as `write` does."""
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise ServeError(
            f"--licence takes a name that the Hub knows, such as apache-2.0, cc-by-4.0 or other, not {licence!r}."
        )
    first = next(iter(models.values()))
    times = {} if latency is None else {path: _times(path, card, latency) for path, card in models.items()}
    taught = "" if first.method is None else f", distilled from a larger network by the method {first.method}"
    parts = [
        _front_matter(list(models.values()), licence),
        f"# {_escape(first.arch)}: images of {len(first.labels)} classes",
        f"The network {_escape(first.arch)} as an image classifier{taught}. Pixels go in and probabilities come out: "
        "normalisation and softmax are part of the ONNX files. `labels.json` names the classes in the order of the "
        "outputs.",
        _table(models, times),
        "Accuracy is that of each file on the test split, which chose nothing. Parameters and multiply-accumulates (of "
        "one image) are those of the network as it ships.",
        *([] if latency is None else [_conditions(latency)]),
        "## Run it",
        "This needs `pip install numpy pillow onnxruntime` and nothing else:",
        f"```python\n{program(first)}```",
        f"The files take uint8 RGB pixels of shape (N, {first.image_px}, {first.image_px}, 3), any N. An image with "
        "transparency is to be laid over white first.",
        "## Where it comes from",
        "\n".join(_provenance(list(models.values()), licence)),
    ]
    return "\n\n".join(parts) + "\n"


def _provenance(cards: list[Card], licence: str | None) -> list[str]:
    first = cards[0]
    return [
        f"- Licence of the weights: {licence or 'not stated'}",
        f"- Licence of the training data: {_escape(first.data_licence or 'not stated')}",
        f"- Fingerprint of the training data (SHA-256): `{first.data_sha256}`",
        f"- Fingerprint of the parameters of its training: `{first.params_sha256}`"
        + ("" if first.seed is None else f", seed {first.seed}"),
        *(f"- `{card.full_name}.onnx`: SHA-256 of the network `{card.graph_sha256}`" for card in cards),
    ]


def program(card: Card) -> str:
    """Python that classifies photo.jpg as the server would, with numpy, Pillow and ONNX Runtime alone."""
    size, cut = card.resize_px, round((card.resize_px - card.cut_px) / 2)
    middle = "" if size == card.cut_px else f".crop(({cut}, {cut}, {cut + card.cut_px}, {cut + card.cut_px}))"
    if card.image_px != card.cut_px:
        middle += f".resize(({card.image_px}, {card.image_px}), Image.Resampling.BILINEAR)"
    return f"""import json
import numpy, onnxruntime
from PIL import Image, ImageOps

with open("labels.json", encoding="utf-8") as file: labels = json.load(file)
image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
pixels = numpy.asarray(ImageOps.fit(image, ({size}, {size}), Image.Resampling.BICUBIC){middle})
scores = onnxruntime.InferenceSession("{card.full_name}.onnx").run(["probabilities"], {{"pixels": pixels[None]}})[0][0]
for k in (-scores).argsort()[:3]: print(f"{{scores[k]:.3f}} {{labels[k]}}")
"""


def _front_matter(cards: list[Card], licence: str | None) -> str:
    """YAML of which every text is a JSON string, which is YAML too."""
    tags = ["onnx", "onnxruntime", *(["knowledge-distillation"] if cards[0].method is not None else [])]
    index = [
        {
            "name": card.full_name,
            "results": [
                {
                    "task": {"type": "image-classification"},
                    "dataset": {"name": f"test split, training data {card.data_sha256[:12]}", "type": "custom"},
                    "metrics": [
                        {"type": "accuracy", "name": f"top-{k} accuracy in percent", "value": card.metrics[f"top{k}"]}
                        for k in (1, 5)
                        if f"top{k}" in card.metrics
                    ],
                }
            ],
        }
        for card in cards
        if "top1" in card.metrics
    ]
    entries = {
        **({} if licence is None else {"license": licence}),
        "library_name": "onnx",
        "pipeline_tag": "image-classification",
        "tags": tags,
        **({"metrics": ["accuracy"], "model-index": index} if index else {}),
    }
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in entries.items()), "---"])


def _table(models: Mapping[Path, Card], times: Mapping[Path, Mapping[int, float]]) -> str:
    batches = sorted({size for found in times.values() for size in found})
    rows = [
        ["file", "computes in", "MB", "parameters", "million multiply-accumulates", "top-1, %"]
        + [f"ms for {size} image{'s' * (size > 1)}" for size in batches]
    ]
    rows.append([":--", ":--", *["--:"] * (len(rows[0]) - 2)])
    for path, card in models.items():
        top1 = card.metrics.get("top1")
        rows.append(
            [
                f"{card.full_name}.onnx",
                card.precision,
                f"{path.stat().st_size / 1e6:.2f}",
                f"{card.num_parameters:,}",
                f"{card.macs / 1e6:.1f}",
                "not measured" if top1 is None else f"{top1:.2f}",
                *(f"{times[path][size]:.3f}" for size in batches),
            ]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        content["machine"]["cpu"], content["threads"], content["candidates"][0], content["batches"][0]["candidates"]
    except OSError as error:
        raise ServeError(f"--latency {path} could not be read ({error.strerror}); {_LATENCY}.") from error
    except (ValueError, LookupError, TypeError) as error:
        raise ServeError(f"--latency {path} is not the JSON file of a benchmark; {_LATENCY}.") from error
    return content


def _times(path: Path, card: Card, latency: Mapping[str, Any]) -> dict[int, float]:
    """Batch size -> p50 in ms. Stage benchmark times student.onnx as student_onnx, `serve benchmark` as student."""
    sizes = {record["name"]: record["size_bytes"] for record in latency["candidates"]}
    name = next((name for name in (f"{card.full_name}_onnx", card.full_name) if name in sizes), None)
    if name is None:
        raise ServeError(f"--latency holds no times of {card.full_name}, only of {', '.join(sizes)}; time {path} too.")
    if sizes[name] != path.stat().st_size:
        raise ServeError(
            f"--latency timed a {card.full_name} of {sizes[name]:,} bytes, but {path} has {path.stat().st_size:,}: it "
            "is another file. Time it again."
        )
    return {batch["batch_size"]: batch["candidates"][name]["p50_ms"] for batch in latency["batches"]}


def _conditions(latency: Mapping[str, Any]) -> str:
    machine, packages = latency["machine"], latency["machine"].get("packages", {})
    where = f"a GPU of this machine: {machine['cpu']}" if latency.get("device") == "cuda" else machine["cpu"]
    runtime = f", ONNX Runtime {packages['onnxruntime']}" if "onnxruntime" in packages else ""
    threads = f"{latency['threads']} thread{'s' * (latency['threads'] > 1)}"
    return f"Times are medians of calls that took turns in one process, on {_escape(where)}, {threads}{runtime}."


def _escape(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))
