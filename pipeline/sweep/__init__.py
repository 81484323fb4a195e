"""Many trainings: what students would cost, the table of pairs x methods x seeds, and experiments side by side.

The stages table, survey, preflight and frontier enter. It knows training, teaching, deployment, report and what stands
below.
"""
