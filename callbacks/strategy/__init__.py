"""Ways to run a training step: sharded over GPUs with FSDP, or recorded as one CUDA graph."""
