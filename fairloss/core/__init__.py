"""What every layer may use: checks, dtypes, state, processes, optional packages. Imports nothing itself."""
