"""A teacher cache: what the teacher says of views that repeat, computed once and read by every student."""
