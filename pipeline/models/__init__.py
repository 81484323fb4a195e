"""One file a family of networks, on the contract of base.py; checkpoint.py writes and rebuilds them."""
