"""Metrics as pure functions of predictions and targets, their bootstrap intervals, and paired comparison."""
