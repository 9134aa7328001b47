"""The gate of a SwiGLU MLP."""
