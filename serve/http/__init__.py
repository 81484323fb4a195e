"""The server: the Open Inference Protocol over HTTP, batches, limits, workers, and the demo page."""
