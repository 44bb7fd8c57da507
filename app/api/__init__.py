"""HTTP: what a client may send and what it gets. Beside `app.main`, the only home of FastAPI."""
