"""Check an option that has a few allowed values, also where no command line has checked it."""

from collections.abc import Sequence


def check_choice(key: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse any other value than the allowed ones.

    Raises:
        ValueError: naming the key and the allowed values.
    """
    if value not in allowed:
        raise ValueError(f"{key}: must be {', '.join(allowed[:-1])} or {allowed[-1]}, got {value}")
