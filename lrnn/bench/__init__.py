"""How fast is it? Ours beside a baseline, in one run: python -m lrnn.bench"""
