"""One file a method; its name is what distill.methods says. base.py is the contract, batch.py what a step hands over.

Training, teaching and every room above enter. It knows models and what stands below.
"""
