"""What can go wrong for reasons a user can mend. Each message says what was expected, what came, and what to do.

PupilError
+-- ParamsError      params.yaml holds an unknown key, a wrong type or an impossible value
+-- DataError        a data set is missing, broken or does not fit the parameters
+-- CheckpointError  a weights file is torn, foreign, or of another network
+-- TrainingError    a training cannot go on: no finite loss, no memory, a process that is lost
+-- ParityError      an exported network does not compute what the trained one does
+-- StoppedError     somebody asked a long stage to stop; it did, and can go on
"""

import signal


class PupilError(Exception):
    """Base of every error that a stage reports as one paragraph, without a traceback."""


class ParamsError(PupilError):
    """A value in params.yaml cannot be used."""


class DataError(PupilError):
    """A data set cannot be used."""


class CheckpointError(PupilError):
    """A weights or resume file cannot be used."""


class TrainingError(PupilError):
    """Training cannot go on."""


class ParityError(PupilError):
    """The exported graph and the trained network disagree."""


class StoppedError(PupilError):
    """A stage was asked to stop, by Ctrl-C or by the system, and has put its state away."""

    def __init__(self, message: str, number: signal.Signals) -> None:
        super().__init__(message)
        self.signal = number
