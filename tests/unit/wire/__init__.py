"""Unit tests of zmqbroker.wire."""
