"""The straight line from pixels to probabilities: numpy in, numpy out, no server in sight."""
