"""Mutation testing: a seeded, stratified sample of Cosmic Ray's mutants, run against the tests that reach them.

``sample`` draws the mutants, ``run`` tests them, ``score`` prints the share that the tests notice with its interval.
"""
