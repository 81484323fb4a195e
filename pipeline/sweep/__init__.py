"""Many trainings: the table of pairs x methods x seeds on one machine or many, and what cannot work, said before it.

The stages table and preflight enter. It knows training, teaching, deployment, report and what stands below.
"""
