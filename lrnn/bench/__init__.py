"""Time our code and a baseline in turn, in one process: python -m lrnn.bench"""
