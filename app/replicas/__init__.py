"""The service on many machines: model replicas on a Ray cluster, and the engine that asks them."""
