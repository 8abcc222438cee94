"""How guests' memory and privileged instructions are virtualized: one small class for each technique."""
