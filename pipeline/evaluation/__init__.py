"""How good a network is: metrics, intervals, comparisons, and where it looks.

Training, deployment and report enter. It knows distillation's blocks, models, data and what stands below.
"""
