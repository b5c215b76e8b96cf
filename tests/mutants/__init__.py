"""The simulator on trial: known defects of a replicated log, put into the code one at a time, each of which it must find."""
