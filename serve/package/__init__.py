"""What others need to run exported models: a folder with a model card, a Triton repository, a KServe manifest."""
