"""Choose which of the student's files ships: the fastest on this machine of those that passed the gate."""

from pathlib import Path

from pipeline.settings import params as parameters
from serve.errors import ServeError
from serve.timing import shipping
from stages import _run


def ship(params: Path, deploy: Path) -> None:
    """Write deployed.onnx and deployed.json to the folder `deploy`, as `python -m serve choose` does."""
    settings = parameters.load(params)
    wish = shipping.Wish(
        settings.deploy.prefer, settings.deploy.batch_size, settings.benchmark.threads, settings.benchmark.device
    )
    print(shipping.told(shipping.ship(deploy, wish)))


if __name__ == "__main__":
    _run.main(ship, ServeError)
