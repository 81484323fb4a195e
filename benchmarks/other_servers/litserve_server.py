"""An API of LitServe with batching: litserve_server.py MODEL PORT WORKERS THREADS."""

# mypy: ignore-errors

import litserve
import numpy as np
from session import arguments, open_session


class Classifier(litserve.LitAPI):
    """Pixels to probabilities; LitServe looks at the names of these methods and of their arguments."""

    def __init__(self, path, threads, **kwargs):
        super().__init__(**kwargs)
        self._path, self._threads = path, threads

    def setup(self, device):
        """Open the session, in the worker."""
        self._session = open_session(self._path, self._threads)

    def decode_request(self, request):
        """(H, W, 3) pixels."""
        return np.array(request["pixels"], dtype=np.uint8)

    def batch(self, inputs):
        """Requests into a batch."""
        return np.stack(inputs)

    def predict(self, x):
        """(n, K) probabilities."""
        return self._session.run(["probabilities"], {"pixels": x})[0]

    def unbatch(self, output):
        """A batch into answers."""
        return list(output)

    def encode_response(self, output):
        """(K,) probabilities."""
        return {"probabilities": output.tolist()}


if __name__ == "__main__":
    model_path, http_port, num_workers, num_threads = arguments()
    api = Classifier(model_path, num_threads, max_batch_size=32, batch_timeout=0.001)
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=num_workers)
    server.run(host="127.0.0.1", port=http_port, generate_client_file=False, log_level="warning")
