"""How a run differs from the protocol of the paper's table (Appendix E.1.1).

The paper states neither AdamW's betas and epsilon nor the precision. Betas and epsilon are compared with PyTorch's
defaults, and the precision is not compared.
"""

from collections.abc import Mapping, Sequence
from typing import Any

RATES = (1e-2, 1e-3, 5e-4, 1e-4)
TRAIN_LENGTHS, TEST_LENGTHS = [3, 40], [40, 256]
LAYERS = {"parity": 2}  # 3 on all arithmetic
XLSTM_IN_ARITHMETIC = 64  # width of mLSTM and sLSTM there
DATA = {  # option -> what it is in the paper, and how another value is said
    "train_lengths": (TRAIN_LENGTHS, "trained on lengths {}"),
    "test_lengths": (TEST_LENGTHS, "tested on lengths {}"),
    "supervision": ("last", "labels: {}"),
    "curriculum": (None, "a length curriculum"),
}
OPTIMIZER = {
    "weight_decay": (0.1, "weight decay {:g}"),
    "betas": ([0.9, 0.999], "betas {}"),
    "adam_eps": (1e-8, "epsilon {:g}"),
    "gate_saturation": (0.0, "gate saturation {:g}"),
}


def differences(model: str, task: str, configuration: Mapping[str, Any], rates: Sequence[float]) -> list[str]:
    """Return what differs from the paper, each in a few words.

    Args:
        model: name of the row in the paper's table.
        task: name of the task.
        configuration: resolved configuration of a run of the cell.
        rates: learning rates that have been run. The paper takes the best of four.
    """
    trainer = configuration.get("trainer", {})
    data, options = (configuration.get(key, {}).get("init_args", {}) for key in ("data", "model"))
    arithmetic, xlstm = task != "parity", model in ("mLSTM", "sLSTM")
    found = []
    if (steps := trainer.get("max_steps", 100_000)) != 100_000:
        found.append(f"{steps:,} steps, not 100,000")
    batch = 512 if model == "mLSTM" else 1024
    # a run of a sweep has one device
    if (ours := data.get("batch_size", batch) * trainer.get("accumulate_grad_batches", 1)) != batch:
        found.append(f"batches of {ours:,}, not {batch:,}")
    shapes = {"layers": LAYERS.get(task, 3), "width": XLSTM_IN_ARITHMETIC if arithmetic and xlstm else 128}
    found += [
        f"{name} {options[name]}, not {paper}" for name, paper in shapes.items() if options.get(name, paper) != paper
    ]
    for values, table in ((data, DATA), (options, OPTIMIZER)):
        for name, (paper, text) in table.items():
            if _plain(values.get(name, paper)) != paper:
                found.append(text.format(values[name]))
    if others := sorted(set(rates) - set(RATES)):
        found.append(f"rates {', '.join(f'{rate:g}' for rate in others)}, not among the paper's")
    if len(set(rates)) < len(RATES):
        found.append(f"{len(set(rates))} learning rate{'s' if len(set(rates)) > 1 else ''}, not 4")
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
