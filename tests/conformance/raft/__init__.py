"""The reference's scripted Raft clusters, replayed against `zmqbroker.raft` and compared byte for byte.

`python -m tests.conformance.raft PATH...` replays a script, a directory or a tar of scripts.
"""
