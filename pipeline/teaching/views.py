"""How many views a training image has: the one file of stage teach that students depend on, kept answers or not.

With it alone a student is the same whether its teacher was cached or ran: switching the cache on trains nothing again.
Imports no torch, so that the stage takes no time where nothing is kept.
"""

from pathlib import Path

from pipeline.system.files import write_json
from pipeline.system.scratch import replacing_folder


def write(num_views: int | None, folder: Path) -> None:
    """Write `views.json` into a folder: K, or null where views do not repeat."""
    write_json(folder / "views.json", {"views": num_views})


def write_alone(num_views: int | None, out: Path) -> None:
    """Leave a folder `out` with nothing but `views.json`."""
    with replacing_folder(out) as scratch:
        write(num_views, scratch)
