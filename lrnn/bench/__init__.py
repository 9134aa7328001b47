"""Time ours and a baseline in turn, in one run: python -m lrnn.bench"""
