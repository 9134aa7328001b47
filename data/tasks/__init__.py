"""Synthetic tasks: one file a task, and the base class and random numbers that they share."""
