"""What a procedural scene is drawn with: the canvas, the land, the roofs."""
