"""Print the paper's table from the runs of a sweep: python -m lrnn.table --run_dir=runs/parity"""

from lrnn.sweep.table import main

if __name__ == "__main__":
    main()
