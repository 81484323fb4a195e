"""Draw the students of all finished experiments: validation accuracy against latency and size. No stage of the DAG.

    python -m stages.frontier --budget-ms 0.5

It reads experiments as `dvc exp show` does, and the folder as it is; it trains and measures nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.scm import SCMError

from pipeline.choosing import frontier as fronts
from pipeline.choosing.budget import Budget
from pipeline.choosing.experiments import Read, find
from pipeline.choosing.frontier_plot import draw
from pipeline.choosing.points import Places
from pipeline.system.columns import aligned
from pipeline.system.errors import PupilError
from pipeline.system.files import replacing, write_json
from stages import _run


def frontier(
    artifacts: Path = Path("artifacts"),
    data: Path = Path("data/prepared"),
    out: Path = Path("report/frontier"),
    budget_ms: float | None = None,
    budget_speedup: float | None = None,
    budget_mb: float | None = None,
) -> None:
    """Print a table, and write frontier.png and frontier.json to `out`; the other folders are the project's own.

    Of what is deployed, --budget-ms bounds the median call with one image in milliseconds, --budget-mb the file in
    MB, and --budget-speedup says how many times as fast as its teacher it is at least.
    """
    budget = Budget(budget_speedup, budget_mb, budget_ms)
    with experiments() as (shown, read):
        found = find(shown, read, Places(artifacts.as_posix(), data.as_posix()))
    if not found.students:
        raise PupilError(
            "No experiment has a student to compare: deployed, timed, and scored on validation images that were not "
            "trained on. Run `dvc repro`, or `dvc exp run` without a stage.\n" + "\n".join(found.left_out)
        )
    table = aligned([fronts.TITLES, *fronts.rows(found.students, budget)], right=range(2, 6))
    print("\n".join([*table, "", *fronts.notes(found, budget)]))
    with replacing(out / "frontier.png") as scratch:
        scratch.write_bytes(draw(found.students, budget))
    write_json(out / "frontier.json", fronts.record(found, budget))
    print(f"{out / 'frontier.png'} shows it, {out / 'frontier.json'} holds it.")


@contextmanager
def experiments() -> Iterator[tuple[list[dict[str, Any]], Read]]:
    """What `dvc exp show --json` says of the folder, HEAD and every commit with experiments, and how to read files."""
    with Repo() as repo:

        def read(revision: str, path: str) -> str | None:
            try:
                if revision == "workspace":
                    return Path(repo.root_dir, path).read_text(encoding="utf-8")
                with repo.switch(revision):
                    text: str = repo.dvcfs.read_text(path, encoding="utf-8")
                    return text
            except FileNotFoundError:
                return None
            except (OSError, DvcException) as error:
                raise PupilError(f"{path} cannot be read ({error}).") from error

        commits = ["HEAD", *repo.experiments.ls(all_commits=True)]
        yield [state.dumpd() for state in repo.experiments.show(revs=commits)], read


if __name__ == "__main__":
    _run.main(frontier, DvcException, SCMError)
