"""The RMS norm, alone and after the sum with the residual stream."""
