"""Benchmarks of whole clusters: real processes, raw sockets, prebuilt frames, and the ceiling of the machine beside them.

`python -m bench` is the way in; bench/README.md says what each figure means and what bounds it.
"""
