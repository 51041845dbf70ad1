"""Groups: labels to ids (NumPy alone), ids and sums by group, memories of past samples. Imports nothing itself."""
