"""Learners, baselines, evaluation and export."""
