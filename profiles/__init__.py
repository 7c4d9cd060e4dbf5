"""What a layer costs: measured tables and the plan table built from them."""
