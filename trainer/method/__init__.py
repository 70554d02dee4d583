"""The method as pure functions: advantages, difficulty rules, live difficulty, selection."""
