"""How fast llamita is beside its peers: measured in turns, in one run, on this machine."""
