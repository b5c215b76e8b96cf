"""Bytes <-> values, sans-IO: client frames, batch frames, peer messages and log entries.

No module in here opens a socket, reads a clock or keeps state between two calls. What comes from outside is checked in full
and refused with a named error; what goes out is built from values that this package defines or shares. The layouts are those
of docs/PROTOCOL.md, and golden bytes for each are in tests/conformance. Import the modules, not names from here.
"""
