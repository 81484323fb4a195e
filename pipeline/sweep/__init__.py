"""The table of pairs x methods x seeds: its plan, its rehearsal, its runs on many machines, its result.

The stages table and preflight enter. It knows training, teaching and what stands below.
"""
