"""Grids of runs: grid.py says which runs there are, schedule.py trains them side by side."""
