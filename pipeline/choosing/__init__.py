"""Which student: what each would cost, measured before any training, and what finished experiments came to.

The stages survey and frontier enter. It knows sweep and what stands below.
"""
