"""One file a method, on the contract of base.py; the file's name is what distill.methods says.

Training, teaching and every room above enter. It knows models and what stands below.
"""
