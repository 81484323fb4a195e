"""What a run came to, on one page: artefacts in, numbers with their spread, plots, HTML and Markdown out."""
