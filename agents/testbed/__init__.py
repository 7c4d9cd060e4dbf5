"""Testbed runs: the simulator and real split inference side by side, on the same requests, link and decisions' maker."""
