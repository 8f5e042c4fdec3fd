"""What `benchmarks/train.py` is made of: shapes, worker processes, measurements, tables.

The process that the user starts never imports llamita or torch. llamita may set environment variables when it is
imported (how OpenMP's threads wait, for example), and the workers of its peers must not inherit them.
"""
