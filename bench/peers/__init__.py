"""What people would pick instead, run and driven as well as it can be: raw sockets, frames built before the clock starts."""
