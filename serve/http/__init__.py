"""The server: the Open Inference Protocol over HTTP, batches, limits, workers, and the demo page.

The command run enters. It knows model, and neither load, timing nor package.
"""
