"""The RMS norm, alone and after a residual connection."""
