"""Check options of ops, also where no command line has checked them."""

from collections.abc import Sequence


def check_choice(key: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse any other value than the allowed ones.

    Raises:
        ValueError: naming the key and the allowed values.
    """
    if value not in allowed:
        raise ValueError(f"{key}: must be {', '.join(allowed[:-1])} or {allowed[-1]}, got {value}")


def check_chunk_size(op: str, chunk_size: int | None) -> None:
    """Refuse chunks without a token.

    Raises:
        ValueError: naming the op.
    """
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"{op}: chunk_size must be at least 1, got {chunk_size}")
