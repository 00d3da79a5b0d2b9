"""What lives as long as the process: budgets, sessions, quality, grid data, accelerators, and the tasks behind them."""
