"""How a step is distributed and launched: FSDP, and the training step as one CUDA graph."""
