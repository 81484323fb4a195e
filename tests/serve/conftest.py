"""What a server that ran in the process of a test leaves there."""

import logging
from collections.abc import Iterator

import pytest

from serve.http import logs

LEVELS = {"root": logging.WARNING} | dict.fromkeys(("serve.http", "serve.access", "uvicorn.error"), logging.NOTSET)


@pytest.fixture(autouse=True)
def _logs_go_where_they_went() -> Iterator[None]:
    # A handler of a test that is over writes to a stream that is closed, and its complaint into a later test's.
    yield
    for handler in logging.getLogger().handlers[:]:
        if isinstance(handler.formatter, logs.JsonFormatter):
            logging.getLogger().removeHandler(handler)
    for name, level in LEVELS.items():
        logging.getLogger(name).setLevel(level)
