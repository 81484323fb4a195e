"""From any source of images to memory-mapped splits with a card."""
