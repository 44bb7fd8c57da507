"""What is done to a mask once it is there."""
