"""Reference values that independent libraries computed, and the programs that made them."""
