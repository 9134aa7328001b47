"""Sweeps: grids of runs, and their tables and figures."""
