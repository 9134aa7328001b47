"""Check the paper's theorems, and look at the spectrum of a run: python -m lrnn.theory theorems

python -m lrnn.theory theorems --words=1000 --device=cuda
python -m lrnn.theory automaton --regex="(ab|b*a)*" --word=abba
python -m lrnn.theory spectrum --run_dirs=[runs/fit/parity]
"""

import lrnn.runtime.kernel_cache  # noqa: F401  sets the cache's folders
from lrnn.runtime.command import command
from lrnn.theory.decompose import automaton, group
from lrnn.theory.spectrum import spectrum
from lrnn.theory.theorems import theorems

COMMANDS = {"theorems": theorems, "automaton": automaton, "group": group, "spectrum": spectrum}


def main() -> None:
    command(COMMANDS, "lrnn.theory")


if __name__ == "__main__":
    main()
