"""Put what the other stages found on one page, for people and for programs."""

from pathlib import Path

from pipeline.files import replacing, write_json
from pipeline.report import markdown, page, wording
from pipeline.report.collect import collect
from stages import _run


def report(params: Path, students: Path, teacher: Path, deploy: Path, data: Path, out: Path) -> None:
    """Write report.html, RESULTS.md and results.json to `out`, of the methods and seeds that params.yaml lists."""
    results = collect(params, students, teacher, deploy, data)
    write_json(out / "results.json", results.model_dump(mode="json"))
    for name, text in (("report.html", page.render(results)), ("RESULTS.md", markdown.render(results))):
        with replacing(out / name) as scratch:
            scratch.write_text(text, encoding="utf-8")
    print("".join(text for text, _ in wording.headline(results)))


if __name__ == "__main__":
    _run.main(report)
