"""A custom runtime of MLServer: mlserver_server.py MODEL PORT WORKERS THREADS."""

# mypy: ignore-errors

import asyncio
import os
from pathlib import Path

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse
from session import arguments, open_session


class Classifier(MLModel):
    """Pixels to probabilities."""

    async def load(self) -> bool:
        """Open the session."""
        self._session = open_session(Path(os.environ["MODEL_PATH"]), int(os.environ["MODEL_THREADS"]))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One batch, as adaptive batching has put it together."""
        pixels = NumpyCodec.decode_input(payload.inputs[0])
        probabilities = self._session.run(["probabilities"], {"pixels": pixels})[0]
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("probabilities", probabilities)]
        )


async def main() -> None:
    """Serve until a signal comes."""
    path, port, workers, threads = arguments()
    os.environ |= {"MODEL_PATH": str(path), "MODEL_THREADS": str(threads)}
    settings = Settings(
        host="127.0.0.1",
        http_port=port,
        grpc_port=port + 1,
        metrics_port=port + 2,
        parallel_workers=0 if workers == 1 else workers,
        use_structured_logging=False,
        debug=False,
    )
    model = ModelSettings(
        name="model",
        implementation="mlserver_server.Classifier",  # by name: workers import it
        max_batch_size=32,
        max_batch_time=0.001,
        parameters=ModelParameters(),
    )
    server = MLServer(settings)
    await server.start([model])


if __name__ == "__main__":
    asyncio.run(main())
