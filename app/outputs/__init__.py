"""From what was found in an image to files: rasters, polygons, annotations."""
