"""The short causal convolution and SiLU."""
