"""A KServe InferenceService that runs a Triton model repository as replicas which come and go with the load.

Field names and types are those of serving.kserve.io/v1beta1: PredictorSpec, ModelSpec and ComponentExtensionSpec in
pkg/openapi/swagger.json of https://github.com/kserve/kserve. The model format "triton" is what KServe's runtime
kserve-tritonserver takes: it mounts `storageUri` and starts Triton on it, which serves every model in there.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from serve import files
from serve.errors import ServeError
from serve.package.triton import Serving

# A DNS label, which Kubernetes makes host names of.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_STORAGE = re.compile(r"(s3|gs|https?|hdfs|webhdfs|pvc|hf|oci)://\S+")


@dataclass(frozen=True)
class Service:
    """What is to run, and how often."""

    name: str  # of the InferenceService: lower case letters, digits and '-'
    storage_uri: str  # where the model repository was copied to
    min_replicas: int = 1
    max_replicas: int = 4


def write(path: Path, service: Service, serving: Serving) -> None:
    """Write the manifest; complete or not at all. Raises ServeError for what Kubernetes would refuse."""
    text = manifest(service, serving)
    try:
        files.write_text(path, text)
    except OSError as error:
        raise ServeError(f"{path} could not be written ({error.strerror}).") from error


def manifest(service: Service, serving: Serving) -> str:
    """The InferenceService as YAML. Raises ServeError."""
    if not _NAME.fullmatch(service.name):
        raise ServeError(
            f"A service's name is made of a-z, 0-9 and '-', at most 63 characters in all, not {service.name!r}; give "
            "another --name."
        )
    if not _STORAGE.fullmatch(service.storage_uri):
        raise ServeError(
            f"--storage-uri must say where the repository lies, such as s3://bucket/models or pvc://claim/models, "
            f"not {service.storage_uri!r}."
        )
    if not 0 <= service.min_replicas <= service.max_replicas or service.max_replicas < 1:
        raise ServeError(
            f"--replicas takes the fewest and the most replicas, not {service.min_replicas} and {service.max_replicas}."
        )
    resources = f'cpu: "{serving.instances * serving.threads}"'
    if serving.on_gpu:
        resources += '\n          nvidia.com/gpu: "1"'
    # A replica is full when each of its copies has a batch to compute: more at once ask for another replica.
    return f"""apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {service.name}
spec:
  predictor:
    minReplicas: {service.min_replicas}
    maxReplicas: {service.max_replicas}
    scaleMetric: concurrency
    scaleTarget: {serving.max_batch * serving.instances}
    model:
      modelFormat:
        name: triton
        version: "2"
      protocolVersion: v2
      storageUri: {json.dumps(service.storage_uri)}
      resources:
        requests:
          {resources}
        limits:
          {resources}
"""
