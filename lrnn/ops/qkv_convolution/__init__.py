"""The convolution of q, k and v, and the normalisation of q and k."""
