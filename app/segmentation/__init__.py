"""Pixels to buildings: numpy in, numpy out."""
