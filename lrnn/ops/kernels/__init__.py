"""Triton code: what runs on the GPU. The operators around it are in lrnn/ops/*_triton.py."""
