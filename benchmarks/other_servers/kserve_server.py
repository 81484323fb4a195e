"""A custom predictor of KServe's Python server: kserve_server.py MODEL PORT WORKERS THREADS."""

# mypy: ignore-errors

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from session import arguments, open_session


class Classifier(Model):
    """Pixels to probabilities."""

    def __init__(self, path, threads):
        super().__init__("model")
        self._path, self._threads, self._session = path, threads, None
        self.ready = True

    def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:
        """Answer in the form, binary or JSON, that was asked for."""
        if self._session is None:  # here: workers are forked after the start
            self._session = open_session(self._path, self._threads)
        probabilities = self._session.run(["probabilities"], {"pixels": payload.inputs[0].as_numpy()})[0]
        output = InferOutput("probabilities", list(probabilities.shape), "FP32")
        output.data = probabilities
        return InferResponse(payload.id or "", self.name, [output], requested_outputs=payload.request_outputs)


if __name__ == "__main__":
    model_path, http_port, num_workers, num_threads = arguments()
    server = ModelServer(http_port=http_port, workers=num_workers, enable_grpc=False)
    server.start([Classifier(model_path, num_threads)])
