"""What a run came to, on one page: artefacts in, numbers with their spread, plots, HTML and Markdown out.

The stage report enters. It knows evaluation, data and what stands below, and no network.
"""
