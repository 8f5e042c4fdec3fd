"""Shared by the benchmark scripts. Nothing here imports llamita or torch."""
