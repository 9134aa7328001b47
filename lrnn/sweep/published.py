"""The paper's scaled accuracies on formal languages, best and median of 3 seeds (Grazzi et al. 2025).

The best scores are those of the paper's Table 3. Medians and their median absolute deviations are those of its Table 5.
The heading of the last task in Table 5 says "w/ no brackets, mult", but the score of a constant answer there shows that
the task has brackets. The best scores of that task are unknown.

The scores with a length curriculum (conf/paper/arithmetic_curriculum.yaml) are not of Table 3. They are those of
Gated DeltaNet [-1, 1], the best model in Appendix D of the paper of Mamba-3, which has a protocol of its own.
"""

from typing import NamedTuple


class Published(NamedTuple):
    """Best, median and median absolute deviation of the paper's seeds; None where unknown."""

    best: float | None
    median: float | None
    deviation: float | None


CURRICULUM = ("modular_arithmetic_curriculum", "modular_arithmetic_brackets_curriculum")
PUBLISHED = {
    "parity": {
        "Transformer": Published(0.022, 0.003, 0.013),
        "mLSTM": Published(0.087, 0.018, 0.035),
        "sLSTM": Published(1.000, 1.000, 0.000),
        "Mamba [0, 1]": Published(0.000, 0.000, 0.000),
        "Mamba [-1, 1]": Published(1.000, 1.000, 0.000),
        "DeltaNet [0, 1]": Published(0.017, 0.010, 0.005),
        "DeltaNet [-1, 1]": Published(1.000, 0.999, 0.006),
    },
    "modular_arithmetic": {
        "Transformer": Published(0.031, 0.018, 0.009),
        "mLSTM": Published(0.040, 0.027, 0.013),
        "sLSTM": Published(0.787, 0.124, 0.000),
        "Mamba [0, 1]": Published(0.095, 0.066, 0.029),
        "Mamba [-1, 1]": Published(0.241, 0.214, 0.027),
        "DeltaNet [0, 1]": Published(0.314, 0.214, 0.056),
        "DeltaNet [-1, 1]": Published(0.971, 0.826, 0.146),
    },
    "modular_arithmetic_brackets": {
        "Transformer": Published(0.067, 0.064, 0.003),
        "mLSTM": Published(0.114, 0.114, 0.000),
        "sLSTM": Published(0.178, 0.163, 0.015),
        "Mamba [0, 1]": Published(0.123, 0.116, 0.007),
        "Mamba [-1, 1]": Published(0.116, 0.098, 0.009),
        "DeltaNet [0, 1]": Published(0.194, 0.162, 0.018),
        "DeltaNet [-1, 1]": Published(0.260, 0.227, 0.011),
    },
    "modular_arithmetic_brackets_times": {
        "Transformer": Published(None, 0.025, 0.000),
        "mLSTM": Published(None, 0.034, 0.001),
        "sLSTM": Published(None, 0.153, 0.020),
        "Mamba [0, 1]": Published(None, 0.072, 0.008),
        "Mamba [-1, 1]": Published(None, 0.126, 0.010),
        "DeltaNet [0, 1]": Published(None, 0.113, 0.009),
        "DeltaNet [-1, 1]": Published(None, 0.129, 0.016),
    },
    "modular_arithmetic_curriculum": {"Gated DeltaNet [-1, 1]": Published(0.9925, None, None)},
    "modular_arithmetic_brackets_curriculum": {"Gated DeltaNet [-1, 1]": Published(0.935, None, None)},
}
