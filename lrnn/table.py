"""Print the paper's table from the runs of a sweep: python -m lrnn.table --run_dir=runs/table3"""

from lrnn.sweep.table import main

if __name__ == "__main__":
    main()
