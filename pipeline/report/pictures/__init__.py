"""What the report draws, as SVG that takes the colours of the page."""
