"""How fast is it? Ours beside a baseline, in turn, in one run: python -m lrnn.bench"""
