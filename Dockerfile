# The server alone: no torch, no DVC, and no more of this repository than serve/.
#   docker build -t pupil-serve .
#   docker run -p 8000:8000 -v "$PWD/artifacts/deploy:/models:ro" pupil-serve
# For NVIDIA GPUs, with their CUDA libraries:
#   docker build --build-arg LOCK=requirements-serve-gpu.lock -t pupil-serve-gpu .
#   docker run --gpus all -p 8000:8000 -v "$PWD/artifacts/deploy:/models:ro" pupil-serve-gpu
FROM python:3.12-slim

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /app
ARG LOCK=requirements-serve.lock
COPY requirements-serve.lock requirements-serve-gpu.lock ./
RUN pip install --no-cache-dir --require-hashes -r "$LOCK"
COPY LICENSE ./
COPY serve/ serve/

RUN useradd --no-create-home --uid 10001 serve
USER 10001
EXPOSE 8000
# Asked without a token, also where the server wants one.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=2)"]
# SIGTERM, which docker stop sends, begins a drain of up to 30 seconds, and docker waits for 10: docker stop -t 35.
ENTRYPOINT ["python", "-m", "serve", "run", "--host", "0.0.0.0"]
CMD ["/models/deployed.onnx"]
