"""Scores of trained models: python -m lrnn.evaluate

metrics, contract, scoring and length_figure import neither models nor data, so that callbacks may use them.
"""
