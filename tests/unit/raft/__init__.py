"""Unit tests of zmqbroker.raft."""
