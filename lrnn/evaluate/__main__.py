"""Evaluate a checkpoint: python -m lrnn.evaluate lengths --checkpoint=runs/fit/parity"""

import lrnn.runtime.kernel_cache  # noqa: F401  sets the cache's folders
from lrnn.evaluate.depth import evaluate_depth
from lrnn.evaluate.lengths import evaluate_lengths
from lrnn.evaluate.perplexity import evaluate_perplexity
from lrnn.evaluate.state_tracking import evaluate_state_tracking
from lrnn.evaluate.states import evaluate_states
from lrnn.evaluate.table4 import table4
from lrnn.evaluate.tasks import evaluate_tasks
from lrnn.runtime.command import command

COMMANDS = {
    "depth": evaluate_depth,
    "lengths": evaluate_lengths,
    "perplexity": evaluate_perplexity,
    "state_tracking": evaluate_state_tracking,
    "states": evaluate_states,
    "table4": table4,
    "tasks": evaluate_tasks,
}


def main() -> None:
    command(COMMANDS, "lrnn.evaluate")


if __name__ == "__main__":
    main()
