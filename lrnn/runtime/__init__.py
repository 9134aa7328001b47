"""Parts that the commands share: checkpoints, errors, the kernel cache, and how a function becomes a command."""
