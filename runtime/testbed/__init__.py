"""The testbed: real networks over an emulated link on one machine, to hold the simulator to account."""
