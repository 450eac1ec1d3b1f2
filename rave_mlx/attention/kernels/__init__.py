"""Fused pair-gate attention for GPUs: Metal text, its CUDA twin, and the code that launches them."""
