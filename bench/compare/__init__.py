"""Ours against what people would pick instead, in one run: `python -m bench.compare`."""
