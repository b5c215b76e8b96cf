"""What never enters the log: events, commands and queries. Functions of their inputs, like the state machine."""
