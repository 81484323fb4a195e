"""Which batch sizes stand for all others."""


def typical(max_batch: int) -> tuple[int, ...]:
    """Powers of two up to max_batch, and max_batch itself."""
    return tuple(sorted({max_batch, *(2**power for power in range(max_batch.bit_length()))}))
