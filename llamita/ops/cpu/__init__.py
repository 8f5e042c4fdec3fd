"""What a training step computes between its matrix products, as compiled loops for CPUs: bf16 numbers, one pass each.

Each file is one piece, with its mathematics: forward and backward by hand. They are put in the place of the plain
functions of the model from outside (`machine/acceleration.py`); the plain ones stay the text to read, and what tests
compare these with. What the loops are written in, and how they are compiled and run, is in `loops/`.
"""
