"""Trained weights that come from elsewhere: read without running their code, matched by name, held to the data."""
