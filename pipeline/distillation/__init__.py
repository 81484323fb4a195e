"""One file a method; its name is what distill.methods says.

base.py is the contract, batch.py what a step hands over.
"""
