"""Transformers engine: real models with random weights on one GPU, or on the CPU."""
