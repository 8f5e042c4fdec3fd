"""The implementation of `benchmarks/train.py`: shapes, worker processes, measurements, tables.

The main process never imports llamita or torch: llamita may set environment variables when it is imported (e.g. how
OpenMP threads wait), and the peers' workers must not inherit them.
"""
