"""What `rooftrace doctor` looks at: the installation, the machine and the models."""
