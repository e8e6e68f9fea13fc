"""Scripts that give the numbers of README and docs.

A regular package, since a library that peers.py compares with brings a ``benchmarks`` of its own.
"""
