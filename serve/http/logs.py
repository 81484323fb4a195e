"""Log lines as JSON objects on stderr, one a line: time, level, logger, message, and what a record has beside them."""

import json
import logging
import sys
from datetime import UTC, datetime

ACCESS = logging.getLogger("serve.access")
_OWN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON; control characters of a client's strings cannot start another."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        content: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage().strip(),
        }
        content |= {key: value for key, value in vars(record).items() if key not in _OWN}
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)
        return json.dumps(content, default=repr)


def set_up(with_access: bool) -> None:
    """Send the logs of this process to stderr: warnings and worse, and with_access a line for each request."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("serve.http").setLevel(logging.INFO)
    ACCESS.setLevel(logging.INFO if with_access else logging.WARNING)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # below it, a line for whatever a client does wrong
