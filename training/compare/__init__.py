"""Experiments: arms that differ in one thing, trained alike, scored alike, put into one table."""
