"""What labelled tiles hold, and which of their labels need a look."""
