"""One self-contained page about runs: what won and by how much, and what each policy does when; figures and tables for a paper."""
