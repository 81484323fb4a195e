"""What the report reads: the files of other stages as typed records, and the results collected from them."""
