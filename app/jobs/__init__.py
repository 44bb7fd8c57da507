"""Long work that is kept: its upload, its probabilities and how far it has come."""
