"""Episodes are named by seeds; who may see which is fixed here, so that nothing is chosen on what it is judged on.

Learners draw theirs from 2**62 on by their own generator. On trace-driven scenarios tuning and validation replay training
drives, and only held-out episodes replay test drives (`inputs.on_drives`).
"""

from __future__ import annotations

TUNING = range(1_000_000, 1_000_040)  # parameters of rules
VALIDATION = range(1_500_000, 1_500_040)  # which checkpoint, which recipe
HELD_OUT = 2_000_000  # from here on: judged
