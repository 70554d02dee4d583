"""The difficulty scale, the wanted offsets, and the designed offsets of every kind of variant.

Pure functions of numbers and NumPy arrays; the pipeline and the trainer both use them.
"""
