"""Which student: what each would cost, measured before any training, and what finished experiments came to."""
