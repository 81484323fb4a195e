"""Where numbers are computed, in what precision, and by how many processes."""
