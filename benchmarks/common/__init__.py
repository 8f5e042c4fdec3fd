"""What several of the benchmark scripts share. Nothing here imports llamita or torch."""
