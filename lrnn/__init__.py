"""Linear RNNs whose state-transition eigenvalues may be negative."""
