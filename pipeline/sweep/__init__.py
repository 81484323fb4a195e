"""Many trainings: the table of pairs x methods x seeds, from its plan to its result, and experiments side by side.

The stages table, preflight and frontier enter. It knows training, teaching, report and what stands below.
"""
