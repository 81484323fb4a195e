"""The table of pairs x methods x seeds: its plan, its rehearsal, its runs on many machines, its result; and the survey.

The stages table, survey and preflight enter. It knows training, teaching, deployment and what stands below.
"""
