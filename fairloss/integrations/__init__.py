"""Thin adapters to other frameworks, each imported only on request."""
