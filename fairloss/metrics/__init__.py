"""Fairness metrics in NumPy; importing them imports no torch."""
