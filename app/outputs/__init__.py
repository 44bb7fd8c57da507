"""Write a segmented image to files: rasters, polygons, annotations."""
