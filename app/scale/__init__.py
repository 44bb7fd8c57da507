"""Many files as one map, on one machine or on many."""
