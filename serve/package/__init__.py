"""What other servers need to run exported models: a Triton repository, a KServe manifest.

The command package enters. It knows model.
"""
