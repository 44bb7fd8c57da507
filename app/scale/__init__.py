"""Beyond one machine: many files as one map, and the engine on Ray. Only here is Ray imported."""
