"""The one training loop: schedule, averages, mixtures, progress, and a state from which a stopped run goes on.

The training stages enter. It knows evaluation, distillation and what stands below.
"""
