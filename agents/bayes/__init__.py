"""The priced rules, fitted and tuned on training episodes (`tuning.tuned`), and the causal bound by rollouts on their filter (`causal`)."""
