"""Train, judge and export the networks that `app` serves: `python -m training --help`."""

from training import torchvision_ops as torchvision_ops  # before anything imports torchvision
