"""Unit tests of zmqbroker.realtime."""
