"""Eager reference and dispatch beside each Triton kernel; the only package that may import triton."""
