"""Tests of zmqbroker.storage."""
