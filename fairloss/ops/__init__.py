"""Eager reference and dispatch beside each Triton kernel; the only package that may import triton."""

from fairloss.ops.dispatch import backend, get_backend, set_backend

__all__ = ["backend", "get_backend", "set_backend"]
