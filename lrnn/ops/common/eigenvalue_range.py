"""The eigenvalue range: the interval that holds the eigenvalues of the state transition."""

from collections.abc import Sequence


def range_scale(eigenvalue_range: Sequence[float], key: str = "model.eigenvalue_range") -> int:
    """Return the factor s that stretches a gate g in (0, 1) to the range: s * g - (s - 1).

    s = 1 keeps (0, 1); s = 2 gives (-1, 1) (Grazzi et al. 2025, Table 1). Any other range raises ValueError, whose
    message names the `key`.
    """
    match tuple(eigenvalue_range):
        case (0, 1):
            return 1
        case (-1, 1):
            return 2
    raise ValueError(f"{key}: must be [0, 1] or [-1, 1], got {list(eigenvalue_range)}")
