"""The longest sequence that a kernel takes: it counts places inside a sequence in 32 bits."""

LARGEST_OFFSET = 2**31 - 1


def refuse_longer_sequences(op: str, T: int, numbers: int) -> None:
    """Raise ValueError if T tokens of so many numbers each hold more than 32 bits can count.

    Without it a kernel would read and write elsewhere in memory.
    """
    if T * numbers > LARGEST_OFFSET:
        raise ValueError(
            f"{op}: the kernel takes up to {LARGEST_OFFSET // numbers:,} tokens of {numbers:,} numbers at once, "
            f"got {T:,}; read a longer sequence in segments, with the state carried on"
        )
