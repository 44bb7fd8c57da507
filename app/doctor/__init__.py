"""The checks of `rooftrace doctor`: the installation, the machine and the models."""
