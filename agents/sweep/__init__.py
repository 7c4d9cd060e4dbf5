"""Grids of runs: read and resolved (`grid`, `plan`), done (`work`), here or on a cluster (`local`, `cluster`), and kept (`results`)."""
