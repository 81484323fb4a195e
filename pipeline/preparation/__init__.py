"""From images as people keep them to a prepared split: reading, decoding, auditing, dividing."""
