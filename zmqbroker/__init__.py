"""A message broker that speaks ZeroMQ and replicates every queue with Raft: server and client."""
