"""Networks, one family a file, all behind the contract of base.py."""
