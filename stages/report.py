"""Put what the other stages found on one page, for people and for programs."""

import subprocess
from pathlib import Path

from pipeline.report import markdown, page
from pipeline.report.artefacts.collect import Sources, collect
from pipeline.report.artefacts.results import Commit
from pipeline.report.findings import verdict
from pipeline.report.findings.remarks import remarks
from pipeline.system.files import replacing, write_json
from stages import _run


def report(
    params: Path,
    students: Path,
    teacher: Path,
    chosen: Path,
    deploy: Path,
    comparison: Path,
    energy_maps: Path,
    data: Path,
    published: Path,
    out: Path,
) -> None:
    """Write report.html, RESULTS.md and results.json to `out`, of the methods and seeds that params.yaml lists."""
    sources = Sources(params, students, teacher, chosen, deploy, comparison, energy_maps, data, published)
    results = collect(sources, commit())
    write_json(out / "results.json", results.model_dump(mode="json"))
    for name, text in (("report.html", page.render(results)), ("RESULTS.md", markdown.render(results))):
        with replacing(out / name) as scratch:
            scratch.write_text(text, encoding="utf-8")
    print("".join(text for text, _ in verdict.headline(results)), verdict.details(results), *remarks(results))


def commit() -> Commit | None:
    """The commit that is checked out, and whether files were edited since; None outside of git.

    Nothing depends on the page, so it may carry a commit: that which made it, and a later one that changes nothing of
    what the page shows does not make it anew. dvc.lock does not count as edited: DVC writes it while the run goes on.
    """
    sha = _git("rev-parse", "HEAD")
    if sha is None:
        return None
    edited = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock")
    return Commit(sha=sha, edited=bool(edited))


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


if __name__ == "__main__":
    _run.main(report)
