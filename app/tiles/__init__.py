"""Live map tiles: sources that the operator names, and the buildings in them, tile by tile."""
